using Postcopy.Uffd.Tests.Infrastructure;
using Postcopy.Uffd.Tests.Simulation;

namespace Postcopy.Uffd.Tests.Faults;

/// <summary>A fault reader on a simulated kernel, turned by hand.</summary>
internal sealed class ReaderBench : IPageRequester, IFaultObserver, IDisposable
{
    internal ReaderBench(int pages = 2048, bool shared = false, bool events = false, bool huge = false, int batch = 64, BlocktimeTracker? tracker = null)
    {
        Mapping = huge ? RawMapping.Hugetlb(pages, shared, reserve: false) : shared ? RawMapping.Memfd(pages) : RawMapping.Anonymous(pages);
        PageSize size = huge ? PageSize.TwoMiB : PageSize.Host;
        Block = Registry.Add(new RamBlockSpec { Name = "ram", HostAddress = Mapping.Address, UsedLength = (long)Mapping.Length, PageSize = size });
        Memory = new FakeMemory(pages, size, shared);
        UffdModes modes = UffdModes.Missing | (shared ? UffdModes.Minor : 0);
        Kernel = new FakeKernel(Memory, Mapping.Address, modes, new Random(1)) { PartialPercent = 0 };
        Block.Attach(Kernel, modes, Kernel.Operations);
        LayoutGate? gate = events ? new LayoutGate() : null;
        Placer = new PostcopyPlacer(new PlacerOptions { Deadline = TimeSpan.FromMilliseconds(50) }, tracker) { Gate = gate };
        Reader = new FaultReader(new FaultReaderOptions { BatchSize = batch }, Placer, tracker, Registry, gate, this) { Clock = Clock };
        Reader.AddSource(new FaultSource(Kernel, -1, Registry, isPrimary: true));
        Reader.SetRequester(this);
        Reader.Turn();
    }

    internal RawMapping Mapping { get; }

    internal RamBlockRegistry Registry { get; } = new();

    internal RamBlock Block { get; }

    internal FakeMemory Memory { get; }

    internal FakeKernel Kernel { get; }

    internal PostcopyPlacer Placer { get; }

    internal FaultReader Reader { get; }

    internal SimulatedClock Clock { get; } = new();

    internal List<PageRequest> Requests { get; } = [];

    internal List<PlaceOutcome> Unservable { get; } = [];

    internal int Tries { get; private set; }

    internal RequestOutcome Answer { get; set; } = RequestOutcome.Sent;

    /// <summary>A thread that waits on the page, its message queued.</summary>
    internal FakeVcpu Touch(int page, uint thread = 1)
    {
        FakeVcpu vcpu = Kernel.AddVcpu(thread);
        vcpu.Touch(page);
        Assert.Null(vcpu.Run());
        return vcpu;
    }

    internal void TurnAfter(TimeSpan time)
    {
        Clock.Advance((long)time.TotalNanoseconds);
        Reader.Turn();
    }

    internal int[] RequestedPages() => [.. Requests.Select(r => (int)Block.PageSize.IndexOf(r.Offset))];

    public RequestOutcome TryRequest(in PageRequest request)
    {
        Tries++;
        if (Answer == RequestOutcome.Sent)
        {
            Requests.Add(request);
        }

        return Answer;
    }

    public void OnReaderFailed(Exception e) => throw new InvalidOperationException("The reader failed.", e);

    public void OnUnservable(RamBlock? block, long offset, PlaceOutcome outcome) => Unservable.Add(outcome);

    public void OnPriorityRefused(string what, int value, int errno)
    {
    }

    public void Dispose()
    {
        Reader.Dispose();
        Placer.Dispose();
        Registry.Dispose();
        Mapping.Dispose();
    }
}
