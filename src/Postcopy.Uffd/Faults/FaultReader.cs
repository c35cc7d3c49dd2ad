using System.Runtime.InteropServices;
using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd;

/// <summary>
/// The fault thread: reads the messages of all descriptors of one virtual machine, suppresses duplicates, asks for
/// each missing page once, and gives thrown-away pages back as zeros.
/// </summary>
/// <remarks>
/// Implementation notes. One thread polls all descriptors: several readers would reorder one vCPU's messages
/// (blocktime.md). The loop allocates nothing, logs nothing and takes no lock that allocating code holds; the one
/// exception is a remap event, which makes a new address map. The kernel hands out pending faults before older events
/// (kernel-uapi section 6, row 1), so a batch is applied events first, under the layout gate, and its faults are
/// served after (hazard H4). Nothing here waits: what cannot be done now is parked, and poll wakes up for it.
/// </remarks>
internal sealed unsafe partial class FaultReader : IDisposable
{
    private readonly FaultReaderOptions _options;
    private readonly PostcopyPlacer _placer;
    private readonly BlocktimeTracker? _blocktime;
    private readonly RamBlockRegistry _registry;
    private readonly LayoutGate? _gate;
    private readonly IFaultObserver _observer;
    private readonly WakeEvent _kick = new();
    private readonly SpinBudget _spin;
    private readonly PaddedCounters _counters = new((int)Counter.Count);
    private readonly UffdMessage* _messages;
    private readonly Libc.PollFd* _poll;
    private readonly Thread _thread;

    // Looks at a single descriptor before one at the eventfd as well: a kick is seen some microseconds later.
    private const uint LooksPerPoll = 16;

    // Reads of one descriptor before the others and the waiting requests get their turn (hazard H38).
    private const int ReadsPerTurn = 16;

    private FaultSource[] _sources = [];
    private FaultTrace? _trace;

    // When poll returned, or before the look that has read something: what lies between it and the read is the reader's own delay.
    private long _wokeAt = long.MaxValue;
    private bool _stop;
    private long _turn;

    // What a look of Wait has read already: the first batch of the turn.
    private int _readAhead;
    private uint _looks;

    internal FaultReader(FaultReaderOptions options, PostcopyPlacer placer, BlocktimeTracker? blocktime, RamBlockRegistry registry,
        LayoutGate? gate, IFaultObserver observer)
    {
        options.Validate();
        _options = options;
        _spin = new SpinBudget(options.SpinLimit, Environment.ProcessorCount);
        _placer = placer;
        _blocktime = blocktime;
        _registry = registry;
        _gate = gate;
        _observer = observer;
        _messages = (UffdMessage*)NativeMemory.AllocZeroed((nuint)options.BatchSize, UffdMessage.Size);
        _poll = (Libc.PollFd*)NativeMemory.AllocZeroed(MaxSources + 1, (nuint)sizeof(Libc.PollFd));
        _thread = new Thread(Main) { IsBackground = true, Name = "postcopy-fault" };
    }

    /// <summary>Where faults are noted for events; null while nobody listens. Set by a control thread.</summary>
    internal FaultTrace? Trace
    {
        get => Volatile.Read(ref _trace);
        set => Volatile.Write(ref _trace, value);
    }

    internal enum Counter
    {
        Messages,
        Duplicates,
        Requests,
        AlreadyReceived,
        ZeroFilled,
        Parked,
        Events,
        Unknown,
        RequesterBusy,
        StuckFaults,
        Probes,
        Count,
    }

    /// <summary>Descriptors that one fault thread can read.</summary>
    internal const int MaxSources = 1024;

    internal FaultStatistics Statistics => new()
    {
        Messages = _counters.Sum((int)Counter.Messages),
        Duplicates = _counters.Sum((int)Counter.Duplicates),
        Requests = _counters.Sum((int)Counter.Requests),
        AlreadyReceived = _counters.Sum((int)Counter.AlreadyReceived),
        ZeroFilled = _counters.Sum((int)Counter.ZeroFilled),
        Parked = _counters.Sum((int)Counter.Parked),
        Events = _counters.Sum((int)Counter.Events),
        Unknown = _counters.Sum((int)Counter.Unknown),
        RequesterBusy = _counters.Sum((int)Counter.RequesterBusy),
        StuckFaults = _counters.Sum((int)Counter.StuckFaults),
        WatchdogWakes = _counters.Sum((int)Counter.Probes),
    };

    /// <summary>The descriptors it reads.</summary>
    internal FaultSource[] Sources => Volatile.Read(ref _sources);

    /// <summary>True while some fault waits to be tried again; a hint for other threads.</summary>
    internal bool HasParked => Volatile.Read(ref _parkedCount) > 0;

    /// <summary>
    /// Odd while messages are read and served. Even and the same at two looks: no message was read between them, and of every one
    /// before its page is asked for or there.
    /// </summary>
    internal long TurnCount => Volatile.Read(ref _turn);

    /// <summary>For the watchdog, from its own thread.</summary>
    internal void CountStuck(long threads) => Count(Counter.StuckFaults, threads);

    /// <summary>For the watchdog, from its own thread.</summary>
    internal void CountProbe() => Count(Counter.Probes);

    /// <summary>The clock of retries.</summary>
    internal TimeProvider Clock { get; init; } = TimeProvider.System;

    internal void AddSource(FaultSource source)
    {
        if (_sources.Length == MaxSources)
        {
            throw new InvalidOperationException($"One fault thread reads at most {MaxSources} descriptors.");
        }

        Volatile.Write(ref _sources, [.. _sources, source]);
        Kick();
    }

    internal void Start()
    {
        // The thread must not inherit the starter's AsyncLocals: it outlives them.
        using (ExecutionContext.SuppressFlow())
        {
            _thread.Start();
        }
    }

    internal void Kick() => _kick.Signal();

    /// <exception cref="InvalidOperationException">The caller is the fault thread, out of a page requester.</exception>
    internal void Stop()
    {
        if (Thread.CurrentThread == _thread)
        {
            throw new InvalidOperationException("The fault thread cannot wait for its own end: a page requester must not end or close the destination.");
        }

        Volatile.Write(ref _stop, true);
        Kick();
        if (_thread.IsAlive)
        {
            _thread.Join();
        }
    }

    public void Dispose()
    {
        // The counters stay readable; their finalizer frees them.
        Stop();
        NativeMemory.Free(_messages);
        NativeMemory.Free(_poll);
        _kick.Dispose();
    }

    /// <summary>One turn of the loop without waiting: what tests drive with a simulated kernel.</summary>
    internal void Turn()
    {
        foreach (FaultSource source in Volatile.Read(ref _sources))
        {
            ReadAll(source);
        }

        RetryParked();
        SendWaiting();
    }

    /// <summary>How long the loop would wait now: nanoseconds, -1 for ever. For tests.</summary>
    internal long Patience => NextRetry();

    private long Now() => Clock.GetTimestamp() * (1_000_000_000 / Clock.TimestampFrequency);

    private void Count(Counter counter, long value = 1) => _counters.Add((int)counter, value);

    private void Main()
    {
        try
        {
            Prioritize();
            while (!Volatile.Read(ref _stop))
            {
                FaultSource[] sources = Volatile.Read(ref _sources);
                Wait(sources);
                if (_readAhead == 0)
                {
                    _wokeAt = _blocktime?.Now() ?? 0;
                }

                for (int i = 0; i < sources.Length; i++)
                {
                    if (_poll[i + 1].revents != 0)
                    {
                        // Odd already after a look that has read something.
                        Volatile.Write(ref _turn, _turn | 1);
                        ReadAll(sources[i]);
                        Volatile.Write(ref _turn, _turn + 1);
                    }
                }

                RetryParked();
                SendWaiting();
            }
        }
        catch (Exception e)
        {
            // Whatever it is, nobody serves faults any more: say so loudly, the guest stays frozen and whole.
            _observer.OnReaderFailed(e);
        }
    }

    private void Prioritize()
    {
        if (_options.Nice is { } nice && Libc.setpriority(Libc.PRIO_PROCESS, 0, nice) != 0)
        {
            _observer.OnPriorityRefused("nice value", nice, Marshal.GetLastPInvokeError());
        }

        if (_options.FifoPriority is { } priority)
        {
            Libc.SchedParam parameters = new() { sched_priority = priority };
            // SAFETY: the struct is a local; pid 0 is the calling thread.
            if (Libc.sched_setscheduler(0, Libc.SCHED_FIFO, &parameters) != 0)
            {
                _observer.OnPriorityRefused("SCHED_FIFO priority", priority, Marshal.GetLastPInvokeError());
            }
        }
    }

    private void Wait(FaultSource[] sources)
    {
        _poll[0] = new Libc.PollFd { fd = _kick.Descriptor, events = Libc.POLLIN };
        for (int i = 0; i < sources.Length; i++)
        {
            _poll[i + 1] = new Libc.PollFd { fd = sources[i].Descriptor, events = Libc.POLLIN };
        }

        nuint count = (nuint)(sources.Length + 1);
        long pause = NextRetry();
        int ready = 0;
        _spin.Begin(pause);
        while (_spin.MayLook() && (ready = Look(sources, count)) == 0)
        {
        }

        if (ready == 0)
        {
            // What looking took is gone from it.
            pause = pause < 0 ? pause : NextRetry();
            Libc.Timespec timeout = new() { tv_sec = pause / 1_000_000_000, tv_nsec = pause % 1_000_000_000 };
            // SAFETY: the array has MaxSources + 1 entries; an interrupted or expired poll only means a look for nothing.
            ready = Libc.ppoll(_poll, count, pause < 0 ? null : &timeout, null);
        }

        _spin.End();
        if (ready <= 0)
        {
            for (int i = 0; i <= sources.Length; i++)
            {
                _poll[i].revents = 0;
            }
        }
        else if (_poll[0].revents != 0)
        {
            _kick.Drain();
        }
    }

    /// <summary>
    /// One look that does not wait. A single descriptor is read at once, which saves a system call between a fault and its
    /// request; with events, or with several, poll says what there is.
    /// </summary>
    /// <returns>As poll: descriptors with something to read.</returns>
    private int Look(FaultSource[] sources, nuint count)
    {
        if (sources.Length != 1 || _gate is not null || ++_looks % LooksPerPoll == 0)
        {
            Libc.Timespec now = default;
            // SAFETY: as in Wait.
            return Libc.ppoll(_poll, count, &now, null);
        }

        // As for every read: the turn is odd before it, and stays so while something of it is not served.
        Volatile.Write(ref _turn, _turn + 1);
        _wokeAt = _blocktime?.Now() ?? 0;
        _readAhead = Read(sources[0], new Span<UffdMessage>(_messages, _options.BatchSize));
        _poll[0].revents = 0;
        _poll[1].revents = Libc.POLLIN;
        if (_readAhead == 0)
        {
            Volatile.Write(ref _turn, _turn - 1);
            return 0;
        }

        return 1;
    }

    private static int Read(FaultSource source, Span<UffdMessage> batch)
    {
        int count = source.Kernel.Read(batch, out UffdOutcome outcome);
        return outcome == UffdOutcome.Done
            ? count
            : throw new InvalidOperationException($"Reading {source.Kernel} failed: {outcome}; is the descriptor negotiated and open?");
    }

    private void ReadAll(FaultSource source)
    {
        Span<UffdMessage> batch = new(_messages, _options.BatchSize);
        for (int reads = 0; reads < ReadsPerTurn && (_readAhead > 0 || !Volatile.Read(ref _stop)); reads++)
        {
            int count = _readAhead;
            _readAhead = 0;

            // With events on, no placement may fall between reading one and acting on it.
            _gate?.EnterExclusive();
            try
            {
                count = count > 0 ? count : Read(source, batch);
                ApplyEvents(source, batch[..count]);
            }
            finally
            {
                _gate?.ExitExclusive();
            }

            long readAt = _blocktime?.Now() ?? 0;
            for (int i = 0; i < count; i++)
            {
                if (batch[i].Event == UffdEvent.Pagefault)
                {
                    Serve(source, batch[i], readAt);
                }
            }

            PauseInStorm();
            if (count < batch.Length)
            {
                return;
            }
        }
    }
}
