namespace Postcopy.Uffd.Qemu;

/// <summary>
/// Receives a migration from an unmodified QEMU source into a <see cref="PostcopyDestination"/>: RAM by precopy and
/// postcopy, the device package to a callback, page requests back, recovery after a lost connection.
/// </summary>
/// <remarks>
/// <para>Only RAM is understood. A migration that completes in precopy cannot be received: its devices follow without
/// lengths. Start postcopy early (<c>migrate-start-postcopy</c> right after <c>migrate</c>).</para>
/// <para>Implementation notes. Each connection has a thread of its own that waits for its first byte: "QEVM" makes it the
/// main connection, a command the main connection of a resumed migration, a bare RAM record the urgent channel of
/// postcopy-preempt. So the order in which two connections are accepted does not matter, and a silent one blocks nobody.
/// The device package is handled on a pool task while the main thread reads on: the callback may wait for guest memory.
/// A main connection and the urgent channels that came after it form a link. A link is lost as a whole: its threads let go
/// before the next one begins, so that nothing is placed after the received bitmaps went out (hazard H44).
/// <c>_lock</c> guards who has which role and the steps of the destination; nobody waits for the network while holding it.</para>
/// </remarks>
public sealed partial class QemuIncoming : IAsyncDisposable
{
    // A main, an urgent, and strangers that are about to be refused.
    private const int MostConnections = 16;

    private readonly PostcopyDestination _destination;
    private readonly QemuIncomingOptions _options;
    private readonly MigrationStreamState _stream = new();
    private readonly Lock _lock = new();
    private readonly List<Connection> _connections = [];
    private readonly List<Thread> _threads = [];
    private readonly CancellationTokenSource _stop = new();
    private readonly TaskCompletionSource<CompletionReport> _result = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly Dictionary<RamBlock, StreamRamBlock> _streamBlocks = [];

    private RamBlock[] _blocks = [];
    private IncomingLink? _link;
    private long _accepted;
    private bool _disposed;
    private bool _started;
    private bool _over;

    // The last link ended for a reason that is about to be told.
    private bool _failing;
    private bool _pointOfNoReturn;
    private bool _mainEnded;
    private bool _guestRuns;
    private Task _devices = Task.CompletedTask;
    private ITimer? _recoverTimer;
    private ITimer? _stallTimer;
    private Exception? _acceptFailed;

    /// <summary>Prepares to receive into a destination.</summary>
    /// <param name="destination">A destination in state none; it stays the caller's to close.</param>
    /// <param name="options">How; null for the defaults.</param>
    public QemuIncoming(PostcopyDestination destination, QemuIncomingOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(destination);
        _destination = destination;
        _options = options ?? new QemuIncomingOptions();
    }

    /// <summary>What came over the wire.</summary>
    public QemuIncomingStatistics Statistics => new()
    {
        Phase = _stream.Phase,
        Bytes = Bytes,
        Pages = Volatile.Read(ref _pages),
        ZeroPages = Volatile.Read(ref _zeroPages),
        PrecopyPages = Volatile.Read(ref _precopyPages),
        UrgentPages = Volatile.Read(ref _urgentPages),
        Requests = Requests,
        CorruptPages = Volatile.Read(ref _corruptPages),
        LostConnections = Volatile.Read(ref _lost),
        SourceConfirmed = Volatile.Read(ref _confirmed),
    };

    /// <summary>The source's machine type; empty before its configuration came.</summary>
    public string MachineType => _stream.MachineType;

    /// <summary>The source's block list; empty before it came.</summary>
    public IReadOnlyList<StreamRamBlock> SourceBlocks => _stream.Blocks;

    /// <summary>
    /// Accepts connections and receives until the guest is complete and the source knows it.
    /// </summary>
    /// <param name="accept">Waits for the next connection, and goes on being called: for the urgent channel, for recovery.</param>
    /// <param name="cancellationToken">Gives up; the source is told, and missing pages stay missing.</param>
    /// <returns>The report of the destination.</returns>
    /// <exception cref="QemuIncomingException">
    /// It failed, whatever the reason; the message says in which phase and what is missing. With malformed bytes
    /// <see cref="QemuIncomingException.StreamError"/> says where they are and what was expected.
    /// </exception>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    /// <exception cref="InvalidOperationException">It was called before.</exception>
    public async Task<CompletionReport> RunAsync(Func<CancellationToken, ValueTask<MigrationChannel>> accept, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(accept);
        if (Interlocked.Exchange(ref _started, true))
        {
            throw new InvalidOperationException("A QemuIncoming receives one migration; make another for the next.");
        }

        Task accepting = AcceptAsync(accept);
        using CancellationTokenRegistration cancelled = cancellationToken.UnsafeRegister(
            static (state, token) => ((QemuIncoming)state!).Fail(new OperationCanceledException("Receiving was cancelled.", token)), this);
        try
        {
            return await _result.Task.ConfigureAwait(false);
        }
        finally
        {
            await StopAsync(accepting).ConfigureAwait(false);
        }
    }

    /// <summary>Connections that are open here, of whatever role. For tests.</summary>
    internal int OpenConnections
    {
        get
        {
            lock (_lock)
            {
                return _connections.Count;
            }
        }
    }

    /// <summary>Host pages of which the end came before the beginning. For tests.</summary>
    internal long SplitHostPages
    {
        get
        {
            lock (_lock)
            {
                return _link?.Parts?.EndsFirst ?? 0;
            }
        }
    }

    private long Requests
    {
        get
        {
            lock (_lock)
            {
                return _earlierRequests + (_link is { Ended: false } link ? link.Writer.Requests : 0);
            }
        }
    }

    /// <summary>Gives the connection up: the migration pauses, and the source can resume it. Does nothing while it is paused.</summary>
    /// <param name="why">For the log.</param>
    /// <exception cref="InvalidOperationException">
    /// Now this would end the migration: before the switch, after the end of the stream, or without a
    /// <see cref="QemuIncomingOptions.RecoverTimeout"/>.
    /// </exception>
    public void Pause(string why)
    {
        lock (_lock)
        {
            if (_over || !_pointOfNoReturn || _mainEnded || _options.RecoverTimeout <= TimeSpan.Zero)
            {
                throw new InvalidOperationException(
                    $"A migration in phase {_stream.Phase} with a RecoverTimeout of {_options.RecoverTimeout.TotalSeconds:0.#} s cannot be paused: it must be switched, not ended, and the time-out more than 0.");
            }

            if (!_link!.Ended)
            {
                _link.Lose(new QemuIncomingException($"Paused by the host: {why}.", sourceMayResume: false));
            }
        }
    }

    /// <summary>Ends it and waits for its threads; an unfinished migration fails.</summary>
    public async ValueTask DisposeAsync()
    {
        if (Interlocked.Exchange(ref _disposed, true))
        {
            return;
        }

        Fail(new OperationCanceledException("Receiving was given up."));
        await StopAsync(Task.CompletedTask).ConfigureAwait(false);
        _ = _result.Task.Exception;
        _stop.Dispose();
    }

    private async Task AcceptAsync(Func<CancellationToken, ValueTask<MigrationChannel>> accept)
    {
        try
        {
            while (!_stop.IsCancellationRequested)
            {
                MigrationChannel channel = await accept(_stop.Token).ConfigureAwait(false);
                Begin(channel);
            }
        }
        catch (Exception e) when (!_stop.IsCancellationRequested)
        {
            NoMoreConnections(e);
        }
        catch (Exception)
        {
            // The wait was given up.
        }
    }

    /// <summary>A link that works goes on to its end; only the next one cannot come.</summary>
    private void NoMoreConnections(Exception why)
    {
        bool source;
        lock (_lock)
        {
            _acceptFailed = why;
            if (_link is { Ended: false } || _failing)
            {
                return;
            }

            source = !_pointOfNoReturn;
        }

        Fail(new QemuIncomingException($"No connection could be accepted: {why.Message}", sourceMayResume: source, why));
    }

    private void Begin(MigrationChannel channel)
    {
        lock (_lock)
        {
            if (_over)
            {
                channel.Dispose();
                return;
            }

            if (_connections.Count >= MostConnections)
            {
                MakeRoomLocked();
            }

            Connection connection = new(channel, ++_accepted);
            _connections.Add(connection);
            Thread thread = new(() => Serve(connection)) { IsBackground = true, Name = "postcopy-receive" };
            _ = _threads.RemoveAll(t => !t.IsAlive && t.ThreadState != ThreadState.Unstarted);
            _threads.Add(thread);
            thread.UnsafeStart();
        }
    }

    private async Task StopAsync(Task accepting)
    {
        Thread[] threads;
        lock (_lock)
        {
            _over = true;
            AbortConnectionsLocked();
            threads = [.. _threads];
            StopRecoverTimerLocked();
            _stallTimer?.Dispose();
        }

        await _stop.CancelAsync().ConfigureAwait(false);
        await accepting.ConfigureAwait(false);
        await _devices.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        foreach (Thread thread in threads)
        {
            thread.Join();
        }
    }

    private void AbortConnectionsLocked()
    {
        foreach (Connection connection in _connections)
        {
            connection.Channel.Abort();
        }
    }

    /// <summary>Ends the migration as failed; the source is told if it can still hear it.</summary>
    private void Fail(Exception why)
    {
        ReturnPathWriter? writer;
        lock (_lock)
        {
            why = why is QemuIncomingException or OperationCanceledException
                ? why
                : new QemuIncomingException($"The migration failed in phase {_stream.Phase}: {why.Message}", sourceMayResume: !_pointOfNoReturn, why);
            if (_over || !_result.TrySetException(why))
            {
                return;
            }

            _over = true;
            _ended = _options.TimeProvider.GetTimestamp();
            writer = _link is { Ended: false } link ? link.Writer : null;
        }

        try
        {
            writer?.Shut(1);
            _ = writer?.Flush(s_lastWord);
        }
        catch (MigrationConnectionException)
        {
            // It cannot hear it; the closed connection says the same.
        }

        lock (_lock)
        {
            AbortConnectionsLocked();
        }
    }
}
