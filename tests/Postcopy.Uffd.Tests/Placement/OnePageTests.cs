using Postcopy.Uffd.Tests.Destination;
using Postcopy.Uffd.Tests.Infrastructure;
using Postcopy.Uffd.Tests.Simulation;

namespace Postcopy.Uffd.Tests.Placement;

/// <summary>The short path of one page, and what it leaves to the loop.</summary>
public sealed class OnePageTests
{
    private const int Limit = 60_000;

    [Fact(Timeout = Limit)]
    public async Task TheStretchIsFreeAgainWhateverTheKernelSaid() => await Task.Run(() =>
    {
        using PlacerBench bench = new(RawMapping.Anonymous(8));

        Assert.Equal(PlaceOutcome.Placed, bench.Place(0).Outcome);
        AssertFree(bench);

        Assert.Equal(PlaceOutcome.AlreadyReceived, bench.Place(0).Outcome);
        AssertFree(bench);

        Assert.True(bench.Arena.Uffd.Zeropage(bench.Arena.Page(1), 4096).IsDone);
        Assert.Equal(PlaceOutcome.AlreadyPresent, bench.Place(1).Outcome);
        AssertFree(bench);

        Assert.Equal(PlaceOutcome.SourceUnreadable, bench.Placer.Place(bench.Block, 2 * 4096, 0, 4096).Outcome);
        AssertFree(bench);
        Assert.Equal(6, bench.Block.MissingPages);
    });

    [Theory(Timeout = Limit)]
    [InlineData(false)]
    [InlineData(true)]
    public async Task APageThatIsReceivedIsNotPutToTheKernelAgain(bool zero) => await Task.Run(() =>
    {
        using PlacerBench bench = new(RawMapping.Anonymous(8));
        int calls = 0;
        bench.Block.Attach(new SlowKernel(bench.Arena.Uffd) { Placing = () => calls++ }, bench.Arena.Registration.Modes, bench.Arena.Registration.Operations);

        Assert.Equal(PlaceOutcome.Placed, Again().Outcome);
        Assert.Equal(PlaceOutcome.AlreadyReceived, Again().Outcome);

        Assert.Equal(1, calls);
        Assert.Equal((1L, 1L), (bench.Placer.Statistics.Operations, bench.Placer.Statistics.AlreadyReceivedPages));

        PlaceResult Again() => zero ? bench.Placer.PlaceZero(bench.Block, 4096, 4096) : bench.Place(1);
    });

    [Theory(Timeout = Limit)]
    [InlineData(1)]
    [InlineData(2)]
    public async Task AStallEndsWithTheIoctlAndNotWithTheWorkBehindIt(int pages) => await Task.Run(() =>
    {
        const uint vcpu = 7;
        using PlacerBench bench = new(RawMapping.Memfd(8));
        using UffdArena mirror = new(bench.Arena.Memory.Alias());
        SimulatedClock clock = new();
        using BlocktimeTracker tracker = new(new BlocktimeOptions { TimeProvider = clock });
        using PostcopyPlacer placer = new(blocktime: tracker);
        _ = tracker.AddVcpu(vcpu);
        bench.Block.Attach(new SlowKernel(bench.Arena.Uffd) { Placing = () => clock.Advance(1_000) }, bench.Arena.Registration.Modes, bench.Arena.Registration.Operations);
        bench.Block.AttachMirror(new SlowKernel(mirror.Uffd) { Waking = () => clock.Advance(1_000_000) }, mirror.Memory.Address, UffdModes.Missing);
        tracker.Confirm(tracker.Begin(vcpu, bench.Arena.Page(0), tracker.Now()).Ticket);
        _ = bench.Block.Requested.TestAndSet(0);

        nuint source = bench.Source(0, pages);
        Assert.True(placer.Place(bench.Block, 0, source, pages * 4096).IsReceived);
        Pages.Free(source);

        Assert.Equal((1L, 1_000L), (tracker.Snapshot().VcpuLatency.Count, tracker.Snapshot().VcpuLatency.MaxNanoseconds));
    });

    private static void AssertFree(PlacerBench bench)
    {
        Assert.True(bench.Block.Claims.TryAcquireExclusive(0));
        bench.Block.Claims.ReleaseExclusive(0, 1);
    }
}
