using System.Runtime.InteropServices;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Simulation;

/// <summary>What a schedule plays on.</summary>
public sealed record SimulatedHost
{
    public bool Huge { get; init; }

    public bool Shared { get; init; }

    /// <summary>A second process maps the memory: none, MISSING only, or with MINOR.</summary>
    public UffdModes Mirror { get; init; }

    public bool FollowEvents { get; init; }
}

/// <summary>
/// The real placer and fault reader on a simulated kernel, source, link and balloon, driven by one seed. After every
/// step the bitmaps are held against the kernel; at the end everybody must have been served, with the right bytes.
/// </summary>
internal sealed unsafe partial class Simulation : IPageRequester, IFaultObserver, IDisposable
{
    private const int Pages = 40;
    private const int LongestRun = 8;
    private static readonly nuint MirrorAddress = unchecked((nuint)0x10_0000_0000);

    private readonly Random _random;
    private readonly SimulatedHost _host;
    private readonly RawMapping _mapping;
    private readonly RamBlockRegistry _registry = new();
    private readonly RamBlock _block;
    private readonly FakeMemory _memory;
    private readonly FakeKernel _kernel;
    private readonly FakeKernel? _mirror;
    private readonly SimulatedClock _readerClock = new();
    private readonly SimulatedClock _placerClock = new();
    private readonly BlocktimeTracker _tracker = new();
    private readonly PostcopyPlacer _placer;
    private readonly FaultReader _reader;
    private readonly List<FakeVcpu> _vcpus = [];
    private readonly List<(int Page, int Count)> _inFlight = [];
    private readonly int[] _asked = new int[Pages];
    private readonly bool[] _thrownAway = new bool[Pages];
    private readonly nuint _source;
    private readonly StagingWindow? _window;
    private readonly nuint _staging;

    private bool _inTurn;
    private bool _inPlacement;
    private bool _atAPoint;
    private bool _linked = true;
    private int _busy;
    private int _disconnected;
    private long _outOfHugePagesUntil;

    internal Simulation(SimulatedHost host, int seed)
    {
        _host = host;
        _random = new Random(seed);
        PageSize size = host.Huge ? PageSize.TwoMiB : PageSize.Host;

        // Never touched: the registry wants something mapped, and Discard something to advise.
        _mapping = host.Huge ? RawMapping.Hugetlb(Pages, host.Shared, reserve: false)
            : host.Shared ? RawMapping.Memfd(Pages + 1) : RawMapping.Anonymous(Pages + 1);

        // The real host aligns to its own pages, which may be smaller than those it is said to have: one more page is room to move.
        nuint start = (_mapping.Address + (nuint)size.Bytes - 1) & ~((nuint)size.Bytes - 1);
        _block = _registry.Add(new RamBlockSpec { Name = "ram", HostAddress = start, UsedLength = Pages * size.Bytes, PageSize = size });
        _memory = new FakeMemory(Pages, size, host.Shared);
        UffdModes modes = UffdModes.Missing | (host.Shared ? UffdModes.Minor : 0);
        _kernel = new FakeKernel(_memory, start, modes, _random);
        _block.Attach(_kernel, modes, _kernel.Operations);

        LayoutGate? gate = host.FollowEvents ? new LayoutGate() : null;
        _placer = new PostcopyPlacer(new PlacerOptions { TimeProvider = _placerClock, Deadline = TimeSpan.FromMilliseconds(4), CopyRunBytes = 4 * (int)size.Bytes }, _tracker) { Gate = gate };
        _reader = new FaultReader(new FaultReaderOptions { BatchSize = 4 }, _placer, _tracker, _registry, gate, this) { Clock = _readerClock };
        _reader.AddSource(new FaultSource(_kernel, -1, _registry, isPrimary: true));
        AddVcpus(_kernel, 4, firstThread: 100);
        if (host.Mirror != UffdModes.None)
        {
            _mirror = new FakeKernel(_memory, MirrorAddress, host.Mirror, _random);
            FaultSource source = new(_mirror, -1, null, isPrimary: false);
            _block.AttachMirror(_mirror, MirrorAddress, host.Mirror);
            source.Add(_block, MirrorAddress);
            _reader.AddSource(source);
            AddVcpus(_mirror, 2, firstThread: 200);
        }

        _reader.SetRequester(this);
        _source = (nuint)NativeMemory.AllocZeroed(LongestRun, (nuint)size.Bytes);
        if (!host.Huge)
        {
            // Huge pages are put together, not staged.
            _window = _placer.CreateWindow(stretches: false);
            _staging = (nuint)NativeMemory.AllocZeroed(Pages, (nuint)size.Bytes);
        }

        _placerClock.OnLook = WhileAPlacerPauses;
        if (!host.FollowEvents)
        {
            // With the gate a turn in the middle of an ioctl would wait for the placer that waits for it.
            _kernel.Interleave = Interleaved;
            if (_mirror is not null)
            {
                _mirror.Interleave = Interleaved;
            }
        }
    }

    internal FaultStatistics Faults => _reader.Statistics;

    /// <summary>Plays the schedule; throws what is wrong.</summary>
    internal void Play(int steps)
    {
        // Between the atomic steps of tracker, reader and placer (Debug only: the seam is not in a Release build).
        InterleavingPoint.Install(AtAPoint);
        try
        {
            for (int i = 0; i < steps; i++)
            {
                Step();
                Check();
            }

            Settle();
            Check();
        }
        finally
        {
            InterleavingPoint.Install(null);
        }

        Assert.All(_vcpus, v => Assert.True(v.IsIdle));
        Assert.Empty(_tracker.Snapshot().OpenStalls);
    }

    /// <summary>Plays the schedule and lets the process that owns the memory end: everything must come to rest, without an error.</summary>
    internal void PlayUntilExit(int steps)
    {
        for (int i = 0; i < steps; i++)
        {
            Step();
            Check();
        }

        _kernel.Exit();
        for (int i = 0; i < 40; i++)
        {
            _readerClock.Advance(20_000_000);
            Turn();
        }

        PlaceResult result = _placer.PlaceZero(_block, 0, _block.UsedLength);
        Assert.True(result.IsReceived || result.Outcome == PlaceOutcome.TargetGone, result.ToString());
        if (_window is not null)
        {
            result = _window.Flush();
            Assert.True(result.IsReceived || result.Outcome == PlaceOutcome.TargetGone, result.ToString());
        }

        Assert.True(_reader.Patience < 0 || _busy > 0 || _disconnected > 0, $"The reader would try again in {_reader.Patience} ns, for nobody.");
    }

    public RequestOutcome TryRequest(in PageRequest request)
    {
        if (_busy > 0)
        {
            _busy--;
            return RequestOutcome.Busy;
        }

        if (_disconnected > 0)
        {
            // All that was on its way is lost with the link, and is asked for again.
            _disconnected--;
            Array.Clear(_asked);
            _inFlight.Clear();
            return RequestOutcome.Disconnected;
        }

        Assert.True(_linked, "A request went to a link that was taken away.");
        int page = (int)_block.PageSize.IndexOf(request.Offset);
        int count = (int)_block.PageSize.IndexOf(request.Length);
        for (int i = page; i < page + count; i++)
        {
            Assert.True(++_asked[i] == 1, $"Page {i} was asked for twice on one link.");
        }

        _inFlight.Add((page, count));
        if (_random.Next(8) == 0)
        {
            // A source so fast that the page is there before the fault thread goes on.
            Deliver(_inFlight.Count - 1);
        }

        return RequestOutcome.Sent;
    }

    public void OnReaderFailed(Exception e) => throw new InvalidOperationException("The reader failed.", e);

    public void OnUnservable(RamBlock? block, long offset, PlaceOutcome outcome) => _outOfHugePagesUntil++;

    public void OnPriorityRefused(string what, int value, int errno)
    {
    }

    public void Dispose()
    {
        _reader.Dispose();
        _window?.Dispose();
        _placer.Dispose();
        _tracker.Dispose();
        _registry.Dispose();
        _mapping.Dispose();
        NativeMemory.Free((void*)_source);
        NativeMemory.Free((void*)_staging);
    }

    private static long ContentAtSource(int page) => page % 5 < 2 ? 0 : 1000 + page;

    private void AddVcpus(FakeKernel kernel, int count, uint firstThread)
    {
        for (uint i = 0; i < count; i++)
        {
            _vcpus.Add(kernel.AddVcpu(firstThread + i));
            if (kernel == _kernel)
            {
                _ = _tracker.AddVcpu(firstThread + i);
            }
        }
    }

    private void Step()
    {
        int page = _random.Next(Pages);
        int run = Math.Min(1 + _random.Next(LongestRun), Pages - page);
        FakeVcpu vcpu = _vcpus[_random.Next(_vcpus.Count)];
        switch (_random.Next(100))
        {
            case < 25 when vcpu.IsIdle:
                vcpu.Touch(page);
                break;
            case < 45 when vcpu.IsRunnable:
                Run(vcpu);
                break;
            case < 60:
                Turn();
                break;
            case < 66 when _inFlight.Count > 0:
                Deliver(_random.Next(_inFlight.Count));
                break;
            case < 70 when _inFlight.Count > 0 && _window is not null:
                Stage(_random.Next(_inFlight.Count));
                break;
            case < 72 when _staged.Count > 0:
                Flush();
                break;
            case < 76:
                _ = Place(page, run);
                break;
            case < 80:
                vcpu.Kernel.Signal(vcpu);
                break;
            case < 84:
                _readerClock.Advance(_random.Next(20_000_000));
                break;
            case < 86:
                _busy = _random.Next(4);
                break;
            case < 88:
                Relink();
                break;
            case < 89:
                _disconnected = _random.Next(2);
                break;
            case < 91 when _host.FollowEvents && _kernel.Removals.Count == 0:
                _kernel.StartRemoval(page, run);
                break;
            case < 93:
                _kernel.RunMadvise();
                ForgetRemovals();
                break;
            case < 94:
                FakeKernel one = _random.Next(2) == 0 ? _kernel : _mirror ?? _kernel;
                one.OutOfMemoryCalls = _random.Next(4);
                break;
            case < 95 when _host.Huge:
                _memory.Pool = _random.Next(3);
                break;
            case < 97 when _kernel.Removals.Count == 0:
                Discard(page, run);
                break;
            case < 99:
                Prefetch(page, run);
                break;
            default:
                StartPlainRemoval(page, run);
                break;
        }
    }

    /// <summary>Everything gets better, and then everybody must be served in a bounded number of turns.</summary>
    private void Settle()
    {
        _busy = 0;
        _disconnected = 0;
        if (!_linked)
        {
            Relink();
        }

        _memory.Pool = int.MaxValue / 2;
        _kernel.OutOfMemoryCalls = 0;
        if (_mirror is not null)
        {
            _mirror.OutOfMemoryCalls = 0;
        }

        for (int round = 0; round < 400; round++)
        {
            _readerClock.Advance(20_000_000);
            Turn();
            _kernel.RunMadvise();
            ForgetRemovals();
            Flush();
            while (_inFlight.Count > 0)
            {
                Deliver(0);
            }

            foreach (FakeVcpu vcpu in _vcpus.Where(v => v.IsRunnable))
            {
                Run(vcpu);
            }

            if (_vcpus.TrueForAll(v => v.IsIdle) && _kernel.Removals.Count == 0 && _reader.Patience < 0)
            {
                return;
            }
        }

        FakeVcpu? lost = _vcpus.Find(v => !v.IsIdle);
        Assert.Fail(lost is null
            ? $"The reader never comes to rest: it would wait {_reader.Patience} ns."
            : $"Thread {lost.ThreadId} waits for ever on page {lost.Page}: received {_block.Received.Test(lost.Page)}, requested {_block.Requested.Test(lost.Page)}, " +
              $"unsent {_block.Unsent.Test(lost.Page)}, asked {_asked[lost.Page]}, queued {lost.Queued}, mirror {lost.Kernel == _mirror}.");
    }

    private void Turn()
    {
        if (_inTurn)
        {
            return;
        }

        _inTurn = true;
        long calls = _kernel.Calls + (_mirror?.Calls ?? 0);
        long messages = _kernel.MessagesRead + (_mirror?.MessagesRead ?? 0);
        long deliveries = _deliveries;
        bool early = _reader.Patience != 0;
        _reader.Turn();
        _inTurn = false;

        // Nothing to read and nothing due: then nothing may be tried either, however often the loop turns.
        bool quiet = early && messages == _kernel.MessagesRead + (_mirror?.MessagesRead ?? 0) && deliveries == _deliveries;
        if (quiet && !_inPlacement)
        {
            Assert.Equal(calls, _kernel.Calls + (_mirror?.Calls ?? 0));
        }
    }

    private long _deliveries;

    private void Check()
    {
        _seenRemovals.AddRange(_kernel.Removals.Where(r => !_seenRemovals.Contains(r)));
        long missing = 0;
        for (int i = 0; i < Pages; i++)
        {
            bool received = _block.Received.Test(i);
            missing += received ? 0 : 1;
            bool there = _memory.Frames[i] is not null;
            bool leaving = _kernel.Removals.Any(r => r.Covers(i));
            Assert.True(there || !received || _thrownAway[i] || leaving, $"Page {i} is marked received and is not there.");
            Assert.True(!there || received, $"Page {i} is there and not marked received.");
            if (there && !leaving)
            {
                Assert.Equal(_thrownAway[i] ? 0 : ContentAtSource(i), _memory.Frames[i]);
            }
        }

        Assert.Equal(missing, _block.MissingPages);
    }
}
