using Postcopy.Uffd.Tests.Destination;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Placement;

/// <summary>Who places, discards and moves keep out of each other's stretches; each one's turn is made by holding the claim.</summary>
public sealed class ClaimTests
{
    private const int Limit = 60_000;

    // How long what must not happen is given to happen; when it is right, nothing depends on it.
    private static readonly TimeSpan s_moment = TimeSpan.FromMilliseconds(100);

    [Fact(Timeout = Limit)]
    public async Task APlacementWaitsForADiscardOfItsStretch() => await Task.Run(() =>
    {
        using PlacerBench bench = new(RawMapping.Anonymous(8));
        bench.Block.Claims.AcquireExclusive(0, 1);
        Task<PlaceResult> placement = Task.Run(() => bench.Placer.PlaceZero(bench.Block, 0, 4096));

        Assert.False(placement.Wait(s_moment));
        Assert.False(bench.Block.Received.Test(0));

        bench.Block.Claims.ReleaseExclusive(0, 1);
        Assert.True(placement.WaitAsync(Deadline.Default).GetAwaiter().GetResult().IsReceived);
    });

    [Fact(Timeout = Limit)]
    public async Task ADiscardWaitsForAPlacementInItsStretch() => await Task.Run(() =>
    {
        using PlacerBench bench = new(RawMapping.Anonymous(8));
        _ = bench.Place(0, 8);
        bench.Block.Claims.AcquireShared(0);
        Task discard = Task.Run(() => bench.Block.Discard(new PageRange(0, 4096)));

        Assert.False(discard.Wait(s_moment));
        Assert.True(bench.IsPresent(0));

        bench.Block.Claims.ReleaseShared(0);
        discard.WaitAsync(Deadline.Default).GetAwaiter().GetResult();
        Assert.False(bench.IsPresent(0));
    });

    [Fact(Timeout = Limit)]
    public async Task ADiscardLeavesTheStretchesBesideItToTheirHolders() => await Task.Run(() =>
    {
        using StretchBench bench = new(3);
        bench.Block.Claims.AcquireShared(0);
        bench.Block.Claims.AcquireShared(2);

        bench.Block.Discard(new PageRange(StretchBench.Bytes, StretchBench.Bytes));

        bench.Block.Claims.ReleaseShared(0);
        bench.Block.Claims.ReleaseShared(2);
    });

    [Theory(Timeout = Limit)]
    [InlineData(false, false)]
    [InlineData(true, false)]
    [InlineData(false, true)]
    public async Task TheFaultThreadLeavesAStagedPageToItsChannelWhileTheStretchIsHeld(bool zero, bool stretches) => await Task.Run(() =>
    {
        using StretchBench bench = new(1);
        using StagingWindow window = bench.Placer.CreateWindow(stretches);
        nuint source = bench.Source(0, 4);
        window.Add(bench.Block, 0, zero ? 0 : source, 4);
        bench.Block.Claims.AcquireExclusive(0, 1);

        // Found, so the source is not asked for it.
        Assert.True(bench.Placer.TryPlaceStaged(bench.Block, 3));

        bench.Block.Claims.ReleaseExclusive(0, 1);
        Assert.False(bench.Block.Received.Test(3));
        Assert.True(window.FlushPages().IsReceived);
        Assert.True(bench.Block.Received.Test(3));
        bench.AssertPage(3, zero ? -1 : 3);
        Pages.Free(source);
    });

    [Fact(Timeout = Limit)]
    public async Task AStretchOfWhichAPageCameMeanwhileIsNotMovedOverIt() => await Task.Run(() =>
    {
        // What an urgent channel may do between the last look at the stretch and the claim.
        using StretchBench bench = new(1);
        using HugeStaging staging = new();
        Assert.SkipUnless(staging.TryBack(), "Needs a free huge page: 'echo 1 > /proc/sys/vm/compact_memory' may help.");
        nuint source = bench.Source(7, 1);
        Assert.True(bench.Placer.Place(bench.Block, 7 * 4096, source, 4096).IsReceived);
        Pages.Free(source);

        Assert.Equal(0, bench.Placer.MoveStretch(bench.Block, 0, staging.Address, 0, out StretchFallback reason));

        Assert.Equal(StretchFallback.Disturbed, reason);
        bench.AssertPage(7, 7);
    });

    [Fact(Timeout = Limit)]
    public async Task AStretchThatSomebodyIsPlacingInIsNotMoved() => await Task.Run(() =>
    {
        using StretchBench bench = new(1);
        using HugeStaging staging = new();
        Assert.SkipUnless(staging.TryBack(), "Needs a free huge page: 'echo 1 > /proc/sys/vm/compact_memory' may help.");
        bench.Block.Claims.AcquireShared(0);

        Assert.Equal(0, bench.Placer.MoveStretch(bench.Block, 0, staging.Address, 0, out StretchFallback reason));

        bench.Block.Claims.ReleaseShared(0);
        Assert.Equal((StretchFallback.Disturbed, 512L), (reason, bench.Block.MissingPages));
    });

    [Fact(Timeout = Limit)]
    public async Task AStretchOfWhichAPageIsThereOrAskedForIsNotGathered() => await Task.Run(() =>
    {
        using StretchBench bench = new(3);
        _ = bench.Block.Requested.TestAndSet(512 + 3);
        Assert.True(bench.Placer.PlaceZero(bench.Block, (1024 + 3) * 4096L, 4096).IsReceived);

        Assert.Equal([true, false, false], new[] { 0, 512, 1024 }.Select(first => bench.Placer.MayMove(bench.Block, first)));
    });

    [Fact(Timeout = Limit)]
    public async Task WithEventsOnAStretchIsMovedWithoutAMadviseThatWouldWaitForTheReader() => await Task.Run(() =>
    {
        Requires.Userfaultfd(UffdFeatures.EventRemove);
        using StretchBench bench = new(1, features: UffdFeatures.EventRemove);
        bench.Placer.Gate = new LayoutGate();
        nuint source = bench.Source(0, 512);

        // Nobody reads events here.
        Task<PlaceResult> placement = Task.Run(() => bench.Placer.PlaceStretch(bench.Block, 0, source));

        Assert.True(placement.WaitAsync(Deadline.Default).GetAwaiter().GetResult().IsReceived);
        Pages.Free(source);
        bench.AssertContent(0, 512);
    });

    [Fact(Timeout = Limit)]
    public async Task AZeroPageWhereStagingHeldAnotherPageIsZero() => await Task.Run(() =>
    {
        using StretchBench bench = new(2);
        using StagingWindow window = bench.Placer.CreateWindow();
        bench.Stream(window, 0, 300);

        // Copied from staging, which keeps the bytes.
        Assert.True(window.Flush().IsReceived);
        bench.Stream(window, 512, 512, page => page % 100 == 0);
        Assert.True(window.Flush().IsReceived);

        Assert.Equal(1, bench.Placer.Statistics.StretchesMoved + bench.Placer.Statistics.StretchesSplit);
        bench.AssertContent(512, 1024, page => page % 100 == 0);
    });
}
