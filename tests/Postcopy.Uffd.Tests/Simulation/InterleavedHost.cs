using System.Runtime.InteropServices;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Simulation;

/// <summary>
/// The real fault reader, placer, staging, bitmaps and tracker on a simulated kernel, small enough that the orders of
/// their steps can be enumerated. Page P of the source reads 1000 + P.
/// </summary>
internal sealed unsafe class InterleavedHost : IPageRequester, IFaultObserver, IDisposable
{
    private readonly FakeMemory _memory;
    private readonly RamBlockRegistry _registry = new();
    private readonly List<FakeVcpu> _vcpus = [];
    private readonly SimulatedClock _clock = new();
    private readonly nuint _source;

    /// <param name="mapping">Never touched: the registry wants something mapped.</param>
    /// <param name="pages">Pages of the block.</param>
    /// <param name="stretches">Whether the simulated kernel can move whole stretches.</param>
    /// <param name="whole">Whether a fault asks for its whole stretch.</param>
    internal InterleavedHost(RawMapping mapping, int pages, bool stretches = false, bool whole = false)
    {
        Block = _registry.Add(new RamBlockSpec { Name = "ram", HostAddress = mapping.Address, UsedLength = pages * PageSize.Host.Bytes });
        _memory = new FakeMemory(pages, PageSize.Host, shared: false);
        Kernel = new FakeKernel(_memory, mapping.Address, UffdModes.Missing, new Random(1))
        {
            PartialPercent = 0,
            Interleave = () => InterleavingPoint.Yield("kernel"),
        };
        Block.Attach(Kernel, UffdModes.Missing, Kernel.Operations | (stretches ? UffdOperations.Move : 0));
        Placer = new PostcopyPlacer(new PlacerOptions { StretchZeroPages = FillingStretch.Pages, Stretches = whole ? StretchPlacement.WholeOnFault : StretchPlacement.Auto }, Tracker);
        Reader = new FaultReader(new FaultReaderOptions { BatchSize = 8 }, Placer, Tracker, _registry, gate: null, this) { Clock = _clock };
        Reader.AddSource(new FaultSource(Kernel, -1, _registry, isPrimary: true));
        Reader.SetRequester(this);
        _source = (nuint)NativeMemory.AllocZeroed(2, (nuint)PageSize.Host.Bytes);
    }

    internal RamBlock Block { get; }

    internal FakeKernel Kernel { get; }

    internal BlocktimeTracker Tracker { get; } = new(new BlocktimeOptions { MaxSlots = 4, TimelineCapacity = 0, RingCapacity = 8 });

    internal PostcopyPlacer Placer { get; }

    internal FaultReader Reader { get; }

    /// <summary>How often each page was asked for.</summary>
    internal Dictionary<int, int> Asked { get; } = [];

    /// <summary>How often it may be: once in each of its lives.</summary>
    internal int MostAsked { get; set; } = 1;

    /// <summary>The pages that read zeros in the source.</summary>
    internal Func<int, bool> MayBeZero { get; set; } = _ => false;

    /// <summary>The channel's window, of a test whose parties share it.</summary>
    internal StagingWindow? Window { get; set; }

    /// <summary>Room of one page that a channel receives into, again and again.</summary>
    internal nuint ReceiveBuffer => _source;

    internal static long ContentOf(int page) => 1000 + page;

    internal bool IsServed(uint thread) => _vcpus.Find(v => v.ThreadId == thread) is { Waits: false };

    internal long? FrameOf(int page) => _memory.Frames[page];

    /// <summary>A vCPU that has touched a page, and whose message is not read yet.</summary>
    internal void Fault(uint thread, int page)
    {
        _ = Tracker.AddVcpu(thread);
        FakeVcpu vcpu = Kernel.AddVcpu(thread);
        _vcpus.Add(vcpu);
        vcpu.Touch(page);
        _ = vcpu.Run();
    }

    /// <summary>A page arrives in a buffer of the channel: whatever was in it is overwritten.</summary>
    internal nuint Receive(int page)
    {
        Marshal.WriteInt64((nint)_source, ContentOf(page));
        return _source;
    }

    /// <summary>The urgent channel, which has its own buffer.</summary>
    internal PlaceResult PlaceUrgent(int page)
    {
        nuint own = _source + (nuint)PageSize.Host.Bytes;
        Marshal.WriteInt64((nint)own, ContentOf(page));
        return Placer.Place(Block, page * PageSize.Host.Bytes, own, PageSize.Host.Bytes);
    }

    internal void Stage(StagingWindow window, int page) => window.Add(Block, page * PageSize.Host.Bytes, Receive(page));

    /// <summary>The first stretch but for its last page: zeros, and content in pages 5 and 7.</summary>
    internal void StageAllButTheLast(StagingWindow window)
    {
        for (int page = 0; page < FillingStretch.Pages - 1; page++)
        {
            if (page is 5 or 7)
            {
                Stage(window, page);
            }
            else
            {
                window.Add(Block, page * PageSize.Host.Bytes, 0);
            }
        }
    }

    /// <summary>Our own discard threw the page away.</summary>
    internal void Zap(int page) => _memory.Zap(page);

    /// <summary>
    /// What goes on without anybody's help: the reader reads, woken threads run. With <paramref name="answer"/> the source
    /// answers what it was asked. Then everything must be consistent, and all threads served if the source answered.
    /// </summary>
    internal void Settle(bool answer)
    {
        for (int round = 0; round < 8; round++)
        {
            // Time for what was parked.
            _clock.Advance(20_000_000);
            Reader.Turn();
            int[] open = answer ? [.. Asked.Keys.Where(p => !Block.Received.Test(p))] : [];
            foreach (int page in open)
            {
                Assert.True(PlaceUrgent(page).IsReceived);
            }

            foreach (FakeVcpu vcpu in _vcpus.Where(v => v.IsRunnable))
            {
                int page = vcpu.Page;
                if (vcpu.Run() is { } seen)
                {
                    Assert.True(seen == ContentOf(page) || (seen == 0 && MayBeZero(page)), $"Thread {vcpu.ThreadId} saw {seen} in page {page}.");
                }
            }
        }

        Assert.All(Asked, a => Assert.True(a.Value <= MostAsked, $"Page {a.Key} was asked for {a.Value} times."));
        long missing = 0;
        for (int page = 0; page < Block.PageCount; page++)
        {
            missing += Block.Received.Test(page) ? 0 : 1;
            Assert.True(Block.Received.Test(page) == FrameOf(page) is not null, $"Page {page}: received {Block.Received.Test(page)}, content {FrameOf(page)}.");
            Assert.True(FrameOf(page) is null or 0 || FrameOf(page) == ContentOf(page), $"Page {page} has the content {FrameOf(page)}.");
        }

        Assert.Equal(missing, Block.MissingPages);
        if (answer)
        {
            Assert.All(_vcpus, v => Assert.True(v.IsIdle, $"Thread {v.ThreadId} waits for ever on page {v.Page}."));
            Assert.Equal(0, Tracker.OpenFaults);
            Assert.Equal(0, Tracker.WaitersInFilter);
        }
    }

    public RequestOutcome TryRequest(in PageRequest request)
    {
        for (long page = 0; page < request.Length / PageSize.Host.Bytes; page++)
        {
            int asked = (int)((request.Offset / PageSize.Host.Bytes) + page);
            Asked[asked] = Asked.GetValueOrDefault(asked) + 1;
        }

        return RequestOutcome.Sent;
    }

    public void OnReaderFailed(Exception e) => throw new InvalidOperationException("The reader failed.", e);

    public void OnUnservable(RamBlock? block, long offset, PlaceOutcome outcome) => throw new InvalidOperationException($"{outcome} at {offset}");

    public void OnPriorityRefused(string what, int value, int errno)
    {
    }

    public void Dispose()
    {
        Reader.Dispose();
        Placer.Dispose();
        Tracker.Dispose();
        _registry.Dispose();
        NativeMemory.Free((void*)_source);
    }
}
