namespace Postcopy.Uffd.Qemu;

/// <summary>
/// A main connection and the urgent channels that serve it, until all their threads have let go. Guarded by the lock of
/// <see cref="QemuIncoming"/> where not said otherwise.
/// </summary>
internal sealed class IncomingLink
{
    private readonly HashSet<MigrationChannel> _urgent = [];
    private int _threads = 1;
    private long _received = -1;
    private long _stillSince;
    private readonly RequestWatch _requests = new();

    /// <param name="main">The main connection.</param>
    /// <param name="number">See <see cref="Number"/>.</param>
    /// <param name="parts">See <see cref="Parts"/>.</param>
    internal IncomingLink(MigrationChannel main, long number, HostPageParts? parts = null)
    {
        Parts = parts;
        Number = number;
        Main = main;
        Writer = new ReturnPathWriter(main);
        Active = parts is null;
    }

    internal MigrationChannel Main { get; }

    /// <summary>A later one has a higher number.</summary>
    internal long Number { get; }

    internal ReturnPathWriter Writer { get; }

    /// <summary>On a resumed link: its huge pages that are not whole yet. Null on the first one.</summary>
    internal HostPageParts? Parts { get; }

    /// <summary>Requests may go out and urgent pages may come: from the beginning, or after RESUME_ACK.</summary>
    internal bool Active { get; set; }

    /// <summary>The main connection is lost or over.</summary>
    internal bool Ended { get; set; }

    /// <summary>An urgent channel ended without its end mark: what was on its way there is gone.</summary>
    internal Exception? UrgentLost { get; set; }

    /// <summary>Why this side gave it up; null when it did not.</summary>
    internal Exception? LostBecause { get; private set; }

    /// <summary>Set when no thread places pages for this link any more. Anyone may wait.</summary>
    internal ManualResetEventSlim Over { get; } = new();

    /// <summary>
    /// Cancelled when it is given up and no urgent channel's thread places pages any more: who waits for the last ones behind
    /// the end of the stream reads no connection.
    /// </summary>
    internal CancellationTokenSource Gone { get; } = new();

    /// <summary>Gives the connections up; their threads see it and end.</summary>
    internal void Lose(Exception? why)
    {
        LostBecause ??= why;
        CancelWhenAlone();
        Main.Abort();
        foreach (MigrationChannel channel in _urgent)
        {
            channel.Abort();
        }
    }

    /// <summary>Its urgent channel has shown itself; a link has one.</summary>
    internal bool HadUrgent { get; private set; }

    internal void Join(MigrationChannel urgent)
    {
        HadUrgent = true;
        _ = _urgent.Add(urgent);
        _threads++;
    }

    /// <summary>A thread lets go, after its last placement: the main one, or an urgent channel's.</summary>
    internal void Leave(MigrationChannel channel)
    {
        _ = _urgent.Remove(channel);
        _threads--;
        CancelWhenAlone();
        if (_threads == 0)
        {
            Parts?.Dispose();
            Over.Set();
        }
    }

    /// <summary>Bytes received on the urgent channels that are there still.</summary>
    internal long UrgentBytes => _urgent.Sum(c => c.ReceivedBytes);

    /// <summary>An urgent channel has spoken, and is there still.</summary>
    internal bool HasUrgent => _urgent.Count > 0;

    /// <summary>
    /// True when a page has been asked for that long ago and nothing came on the urgent channel since, whatever comes on the
    /// main one. Called now and then.
    /// </summary>
    internal bool UrgentStandsStill(TimeProvider clock, TimeSpan timeout, IReadOnlyList<RamBlock> blocks) =>
        _requests.Look(clock.GetTimestamp(), clock, blocks, UrgentBytes) >= timeout;

    /// <summary>True when a receive has waited for that long. Called now and then, with a timestamp of the clock.</summary>
    internal bool StandsStill(TimeProvider clock, TimeSpan timeout)
    {
        long received = Main.ReceivedBytes;
        if (received != _received || !Main.IsReceiving)
        {
            _received = received;
            _stillSince = clock.GetTimestamp();
            return false;
        }

        // A clock that was set back begins anew.
        long now = clock.GetTimestamp();
        _stillSince = Math.Min(_stillSince, now);
        return clock.GetElapsedTime(_stillSince, now) >= timeout;
    }

    private void CancelWhenAlone()
    {
        if (_threads == 1 && LostBecause is not null)
        {
            Gone.Cancel();
        }
    }
}
