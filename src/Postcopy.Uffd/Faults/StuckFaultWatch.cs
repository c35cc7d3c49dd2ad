namespace Postcopy.Uffd;

/// <summary>
/// The last safety net under the fault path (hazard H9). The kernel sends a fault's message once; when that one is lost,
/// or a page is placed and nobody wakes its waiter, a thread sleeps for ever. The kernel counts whom it holds, and this
/// compares: who is held although nothing is open here, or for as long as a few looks, is woken. A thread that is woken
/// touches its page again: present, it goes on; missing, the kernel sends a new message, which is a duplicate of a page
/// that is asked for already and a request for one that is not. So a wake too many costs one message a waiter.
/// </summary>
/// <remarks>
/// Runs on a control thread, by the clock; one small file is read a look. A fault that is legitimately open for long (a
/// slow source, a paused link) is woken every <see cref="LooksBeforeProbe"/> looks and counts as a duplicate each time.
/// </remarks>
internal sealed class StuckFaultWatch
{
    /// <summary>Looks in a row with waiters before all are woken although something is open.</summary>
    internal const int LooksBeforeProbe = 5;

    // A thousand take some 40 us, a look less than one; then a pause for a reader that lost its processor within one.
    private const int TriesForEvenTurn = 4000;
    private const int TriesPerPause = 1000;
    private const long PauseForALook = 1_000_000;

    private readonly FaultReader _reader;
    private readonly RamBlockRegistry _registry;
    private readonly TimeProvider _clock;
    private readonly Action<StuckFault> _report;
    private readonly Dictionary<FaultSource, Seen> _seen = [];
    private long _lastLook;

    internal StuckFaultWatch(FaultReader reader, RamBlockRegistry registry, TimeProvider clock, TimeSpan interval, Action<StuckFault> report)
    {
        _reader = reader;
        _registry = registry;
        _clock = clock;
        _report = report;
        Interval = interval;
        _lastLook = clock.GetTimestamp();
    }

    internal TimeSpan Interval { get; }

    internal static bool IsOn(TimeSpan interval) => interval != Timeout.InfiniteTimeSpan;

    /// <summary>What the last look saw of one descriptor.</summary>
    private readonly record struct Seen(long Pending, int Unknown, int Held, WaiterCounts Probed, long Messages, long Requests, long Missing);

    /// <summary>One look at every descriptor, if it is time for one.</summary>
    internal void Look()
    {
        long now = _clock.GetTimestamp();
        TimeSpan since = _clock.GetElapsedTime(_lastLook, now);
        if (!IsOn(Interval) || (since >= TimeSpan.Zero && since < Interval))
        {
            return;
        }

        _lastLook = now;
        foreach (FaultSource source in _reader.Sources)
        {
            try
            {
                if (WaiterCounts.TryRead(source.Descriptor, out WaiterCounts counts))
                {
                    Look(source, counts);
                }
            }
            catch (ObjectDisposedException)
            {
                // Completed or closed while we looked: nobody waits on it any more.
            }
        }
    }

    private void Look(FaultSource source, WaiterCounts counts)
    {
        Seen before = _seen.TryGetValue(source, out Seen seen) ? seen : default;
        FaultStatistics faults = _reader.Statistics;
        Seen now = new(counts.Pending, 0, 0, default, faults.Messages, faults.Requests, _registry.MissingBytes);
        if (before.Probed.Total > 0)
        {
            Judge(before, now, counts);
        }

        if (counts.Pending > 0 && before.Pending > 0 && now.Messages == before.Messages)
        {
            _report(new StuckFault(StuckFaultKind.NotRead, counts.Pending));
            _reader.Kick();
        }

        if (counts.Read > 0)
        {
            long? waiters = UnknownWaiters(source);
            int unknown = waiters switch { null => before.Unknown, 0 => 0, _ => before.Unknown + 1 };
            if (unknown >= 2)
            {
                Wake(source);
                _report(new StuckFault(StuckFaultKind.Unknown, waiters ?? counts.Read));
                unknown = 0;
            }

            int held = before.Held + 1;
            if (held >= LooksBeforeProbe)
            {
                Wake(source);
                _reader.CountProbe();
                held = 0;
                now = now with { Probed = counts };
            }

            now = now with { Unknown = unknown, Held = held };
        }

        _seen[source] = now;
    }

    /// <summary>
    /// What a wake brought to light. It can be told only when nothing else happened since: who is gone without a
    /// placement had its page, and what is asked for now nobody knew of.
    /// </summary>
    private void Judge(in Seen before, in Seen now, WaiterCounts counts)
    {
        long asked = now.Requests - before.Requests;
        long gone = now.Missing == before.Missing ? Math.Max(0, before.Probed.Total - counts.Total) : 0;
        if (gone > 0 && asked == 0)
        {
            _report(new StuckFault(StuckFaultKind.NotWoken, gone));
        }
        else if (asked > 0 && now.Messages - before.Messages <= before.Probed.Total)
        {
            _report(new StuckFault(StuckFaultKind.Unknown, asked));
        }
    }

    /// <summary>
    /// Waiters whose message was read and whose page is open nowhere; null when the fault thread was at work meanwhile and it cannot be told:
    /// it may hold a message that it has not looked at yet (seen in a soak of 30 000 faults a second). The order matters: who is still
    /// held after nothing was open has a page that was placed before, and a placement wakes before it is marked.
    /// </summary>
    private long? UnknownWaiters(FaultSource source)
    {
        long turn = SettledTurn();
        bool open = AnyOpen();
        return !WaiterCounts.TryRead(source.Descriptor, out WaiterCounts counts) || (turn & 1) != 0 || SettledTurn() != turn
            ? null
            : open ? 0 : counts.Read;
    }

    /// <summary>
    /// Even, if it becomes so soon: a fault thread that never sleeps is within a look most of the time, and takes back the turn of one
    /// that found nothing.
    /// </summary>
    private long SettledTurn()
    {
        long turn = _reader.TurnCount;
        for (int tries = 1; (turn & 1) != 0 && tries <= TriesForEvenTurn; tries++)
        {
            if (tries % TriesPerPause == 0)
            {
                Interop.Libc.Pause(PauseForALook);
            }
            else
            {
                Thread.SpinWait(1);
            }

            turn = _reader.TurnCount;
        }

        return turn;
    }

    private bool AnyOpen()
    {
        if (_reader.HasParked)
        {
            return true;
        }

        IReadOnlyList<RamBlock> blocks = _registry.Blocks;
        for (int i = 0; i < blocks.Count; i++)
        {
            if (blocks[i].TryFindOpenRequest(0, out _))
            {
                return true;
            }
        }

        return false;
    }

    private static void Wake(FaultSource source)
    {
        IReadOnlyList<AddressMap.Entry> entries = source.Map.Entries;
        for (int i = 0; i < entries.Count; i++)
        {
            _ = source.Kernel.Wake(entries[i].Range.Start, entries[i].Range.Length);
        }
    }
}

/// <summary>How a fault was stuck.</summary>
internal enum StuckFaultKind
{
    /// <summary>The kernel held it and nothing was open here: its message was lost, or its page placed without a wake.</summary>
    Unknown,

    /// <summary>Its page was there when its thread was woken at last.</summary>
    NotWoken,

    /// <summary>Its message lies unread and the fault thread reads nothing.</summary>
    NotRead,
}

/// <summary>Threads that were found stuck.</summary>
/// <param name="Kind">How.</param>
/// <param name="Threads">How many.</param>
internal readonly record struct StuckFault(StuckFaultKind Kind, long Threads);
