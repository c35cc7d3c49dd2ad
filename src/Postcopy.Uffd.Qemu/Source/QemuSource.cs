namespace Postcopy.Uffd.Qemu;

/// <summary>
/// The source side of QEMU's migration stream, for tests, samples and benchmarks: block list, optional precopy, discards,
/// the device package, postcopy with requested pages first, the urgent channel, recovery. It has no guest itself: the
/// host stops its guest in <see cref="QemuSourceOptions.StopGuest"/> and does not change the memory after the switch.
/// </summary>
/// <remarks>
/// Implementation notes. The source's own thread sends on the main channel; one thread per connection reads the return path
/// and, when there is an urgent channel, sends requested pages on it. Page ownership is one atomic bit per host page, so the
/// two never send the same one. Everything else that they share is guarded by <c>_lock</c>, which nobody holds while sending.
/// </remarks>
public sealed partial class QemuSource : IAsyncDisposable
{
    private const uint RamSectionId = 2;
    private readonly object _lock = new();
    private readonly QemuSourceOptions _options;
    private readonly IMigrationSourceMemory _memory;
    private readonly StreamRamBlock[] _blocks;
    private readonly DirtyPages[] _dirty;
    private readonly BandwidthLimiter _limiter;
    private SourceConnection? _connection;
    private Task? _running;
    private QemuSourceState _state;
    private volatile bool _cancelled;
    private long _bytesOfEarlierConnections;

    /// <summary>Prepares a migration of some memory.</summary>
    /// <param name="memory">The memory.</param>
    /// <param name="options">How to send it; null for the defaults.</param>
    /// <exception cref="ArgumentException">The blocks do not form a valid block list.</exception>
    public QemuSource(IMigrationSourceMemory memory, QemuSourceOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(memory);
        _options = options ?? new QemuSourceOptions();
        _memory = memory;
        _blocks = [.. memory.Blocks.Select((block, index) => new StreamRamBlock(index, block.Name, block.Length, block.PageSize))];
        HashSet<string> names = new(StringComparer.Ordinal);
        foreach (StreamRamBlock block in _blocks)
        {
            if (!System.Numerics.BitOperations.IsPow2(block.PageSize) || block.PageSize < TargetPageSize
                || block.Length <= 0 || block.Length % block.PageSize != 0)
            {
                throw new ArgumentException(
                    $"Block '{block.Name}': {block.Length} bytes are no whole number of pages of {block.PageSize} bytes.", nameof(memory));
            }

            if (!names.Add(block.Name))
            {
                throw new ArgumentException($"Block '{block.Name}' is there twice.", nameof(memory));
            }
        }

        if (_blocks.Length == 0)
        {
            throw new ArgumentException("There is no block to migrate.", nameof(memory));
        }

        _dirty = [.. _blocks.Select(block => new DirtyPages(block))];
        _limiter = new BandwidthLimiter(_options.TimeProvider, _options.BackgroundBandwidth);
    }

    /// <summary>
    /// Prepares a source that takes over from one that died in postcopy (kill -9, a crash), in state
    /// <see cref="QemuSourceState.PostcopyPaused"/>: <see cref="ResumeAsync"/> asks the destination what it has and sends the rest.
    /// </summary>
    /// <param name="memory">
    /// The same blocks with the same content as at the switch. It must have outlived the process: a file, a memfd that somebody holds.
    /// </param>
    /// <param name="options">As the first source had them; null for the defaults.</param>
    /// <returns>A source that is past the point of no return.</returns>
    /// <remarks>
    /// Which side has the guest only the destination knows: after a failure with <see cref="QemuIncomingException.SourceMayResume"/>
    /// it is this one, and a migration begins anew.
    /// </remarks>
    /// <exception cref="ArgumentException">The blocks do not form a valid block list.</exception>
    public static QemuSource ForRecovery(IMigrationSourceMemory memory, QemuSourceOptions? options = null) =>
        new(memory, options) { _state = QemuSourceState.PostcopyPaused, _switched = true, _packageSent = true, _pointOfNoReturnPong = true };

    /// <summary>The unit of RAM records: the 4 KiB of x86 and of most arm64 machines.</summary>
    internal const int TargetPageSize = 1 << QemuWire.DefaultTargetPageBits;

    /// <summary>Where the migration stands.</summary>
    public QemuSourceState State
    {
        get
        {
            lock (_lock)
            {
                return _state;
            }
        }
    }

    /// <summary>Why it paused or failed; null otherwise.</summary>
    public Exception? Error { get; private set; }

    /// <summary>
    /// True once the destination may run the guest: whatever becomes of the migration, a guest of this host must never run
    /// again. With <see cref="QemuSourceOptions.UsePointOfNoReturn"/> that is when the destination said so, without it when
    /// the package is on its way.
    /// </summary>
    public bool IsPastPointOfNoReturn
    {
        get
        {
            lock (_lock)
            {
                return _options.UsePointOfNoReturn ? _pointOfNoReturnPong : _packageSent;
            }
        }
    }

    /// <summary>Bytes per second of pages that nobody asked for; 0 is unlimited. Requested pages are not held back by it.</summary>
    public long BackgroundBandwidth
    {
        get => _limiter.BytesPerSecond;
        set
        {
            ArgumentOutOfRangeException.ThrowIfNegative(value);
            lock (_lock)
            {
                _limiter.BytesPerSecond = value;
                Monitor.PulseAll(_lock);
            }
        }
    }

    /// <summary>What was sent so far.</summary>
    public QemuSourceStatistics Statistics => new(
        Volatile.Read(ref _pages), Volatile.Read(ref _zeroPages), Volatile.Read(ref _precopyPages), Volatile.Read(ref _requests),
        Volatile.Read(ref _urgentPages), _bytesOfEarlierConnections + (_connection?.BytesSent ?? 0), RemainingBytes(), Volatile.Read(ref _resent));

    /// <summary>Sends pages again in the next precopy pass, or by postcopy: what a running guest's writes would do before the switch.</summary>
    /// <param name="blockName">The block.</param>
    /// <param name="offset">First byte.</param>
    /// <param name="length">Bytes; whole pages are marked.</param>
    /// <exception cref="ArgumentException">There is no such block or range.</exception>
    /// <exception cref="InvalidOperationException">The switch was made.</exception>
    public void MarkDirty(string blockName, long offset, long length)
    {
        int index = Array.FindIndex(_blocks, block => block.Name == blockName);
        if (index < 0 || offset < 0 || length < 0 || offset > _blocks[index].Length - length)
        {
            throw new ArgumentException($"No range 0x{offset:x} + 0x{length:x} in a block '{blockName}'.");
        }

        lock (_lock)
        {
            if (_state is not (QemuSourceState.None or QemuSourceState.Active) || _switched)
            {
                throw new InvalidOperationException($"Memory cannot change in state {_state}.");
            }

            DirtyPages dirty = _dirty[index];
            for (long page = offset >> dirty.PageShift; page << dirty.PageShift < offset + length; page++)
            {
                dirty.Mark(page);
            }
        }
    }

    /// <summary>Runs the migration until it is complete, paused or failed.</summary>
    /// <param name="main">The main connection; the source closes it.</param>
    /// <param name="openUrgent">Connects the urgent channel when its time comes; needed exactly with preempt.</param>
    /// <param name="cancellationToken">Ends the migration in state <see cref="QemuSourceState.Cancelled"/>.</param>
    /// <returns>Completed, PostcopyPaused, Failed or Cancelled; <see cref="Error"/> tells why.</returns>
    /// <exception cref="InvalidOperationException">The migration was started before.</exception>
    public Task<QemuSourceState> RunAsync(
        MigrationChannel main, Func<MigrationChannel>? openUrgent = null, CancellationToken cancellationToken = default) =>
        Start(main, openUrgent, QemuSourceState.None, QemuSourceState.Active, RunMigration, cancellationToken);

    /// <summary>Goes on with a paused migration over a new connection, until it is complete, paused again or failed.</summary>
    /// <param name="main">The new main connection; the source closes it.</param>
    /// <param name="openUrgent">Connects the new urgent channel; needed exactly with preempt.</param>
    /// <param name="cancellationToken">Ends the migration in state <see cref="QemuSourceState.Cancelled"/>.</param>
    /// <returns>Completed, PostcopyPaused, Failed or Cancelled.</returns>
    /// <exception cref="InvalidOperationException">The migration is not paused.</exception>
    public Task<QemuSourceState> ResumeAsync(
        MigrationChannel main, Func<MigrationChannel>? openUrgent = null, CancellationToken cancellationToken = default) =>
        Start(main, openUrgent, QemuSourceState.PostcopyPaused, QemuSourceState.PostcopyRecover, RunRecovery, cancellationToken);

    /// <summary>Breaks the connection, as a failing network would: in postcopy the migration pauses.</summary>
    public void BreakConnection()
    {
        lock (_lock)
        {
            _connection?.Abort();
        }
    }

    /// <summary>Ends the migration and waits for its threads.</summary>
    public async ValueTask DisposeAsync()
    {
        Cancel();
        Task? running;
        lock (_lock)
        {
            running = _running;
        }

        if (running is not null)
        {
            await running.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        }
    }

    private Task<QemuSourceState> Start(
        MigrationChannel main,
        Func<MigrationChannel>? openUrgent,
        QemuSourceState from,
        QemuSourceState to,
        Action<SourceConnection, Func<MigrationChannel>?> run,
        CancellationToken cancellationToken)
    {
        ArgumentNullException.ThrowIfNull(main);
        if ((openUrgent is not null) != (_options.Preempt != QemuPreemptMode.None))
        {
            throw new ArgumentException($"With preempt {_options.Preempt} the urgent channel's connector is {(openUrgent is null ? "needed" : "of no use")}.", nameof(openUrgent));
        }

        TaskCompletionSource<QemuSourceState> result = new(TaskCreationOptions.RunContinuationsAsynchronously);
        lock (_lock)
        {
            if (_state != from)
            {
                throw new InvalidOperationException($"A source in state {_state} cannot do this; it would have to be {from}.");
            }

            _state = to;
            Error = null;
            ResetConnectionState();
            _connection = new SourceConnection(main, _blocks, TargetPageSize, _options.HostPageSize, _options.PageChecksums);
            _running = result.Task;
        }

        SourceConnection connection = _connection;
        CancellationTokenRegistration registration = cancellationToken.UnsafeRegister(static source => ((QemuSource)source!).Cancel(), this);
        Thread thread = new(() =>
        {
            try
            {
                using (registration)
                {
                    result.SetResult(RunConnection(connection, openUrgent, run));
                }
            }
            catch (Exception e)
            {
                result.SetException(e);
            }
        })
        { IsBackground = true, Name = "postcopy-source" };
        thread.UnsafeStart();
        return result.Task;
    }

    private void Cancel()
    {
        lock (_lock)
        {
            _cancelled = true;
            _connection?.Abort();
            Monitor.PulseAll(_lock);
        }
    }

    /// <summary>Runs one connection to its end and closes it; how it ended decides the state.</summary>
    private QemuSourceState RunConnection(
        SourceConnection connection, Func<MigrationChannel>? openUrgent, Action<SourceConnection, Func<MigrationChannel>?> run)
    {
        QemuSourceState end = QemuSourceState.Failed;
        try
        {
            connection.StartReturnPath(ReadReturnPath);
            run(connection, openUrgent);
            end = QemuSourceState.Completed;
        }
        catch (Exception e) when (e is MigrationConnectionException or MigrationStreamException)
        {
            lock (_lock)
            {
                Error = connection.Failure ?? e;
                bool resumable = _state is QemuSourceState.PostcopyActive or QemuSourceState.PostcopyRecover && !_endSent;
                end = _cancelled ? QemuSourceState.Cancelled : resumable ? QemuSourceState.PostcopyPaused : QemuSourceState.Failed;
            }
        }
        catch (Exception e)
        {
            Error = e;
            throw;
        }
        finally
        {
            connection.Dispose();
            lock (_lock)
            {
                _bytesOfEarlierConnections += connection.BytesSent;
                _connection = null;
                _state = end;
            }
        }

        return end;
    }

    private long RemainingBytes()
    {
        long bytes = 0;
        foreach (DirtyPages dirty in _dirty)
        {
            bytes += dirty.Bytes;
        }

        return bytes;
    }
}
