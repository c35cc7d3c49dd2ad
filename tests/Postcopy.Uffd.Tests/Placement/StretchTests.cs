using Postcopy.Uffd.Interop;
using Postcopy.Uffd.Tests.Destination;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Placement;

/// <summary>Whole stretches of 2 MiB as huge pages, on the real kernel.</summary>
public sealed class StretchTests
{
    private const int Limit = 60_000;
    private const int PerStretch = 512;

    [Fact(Timeout = Limit)]
    public async Task AStretchAtHandBecomesAHugePage() => await Task.Run(() =>
    {
        using StretchBench bench = new(2);
        nuint source = bench.Source(PerStretch, PerStretch);

        PlaceResult result = bench.Placer.PlaceStretch(bench.Block, StretchBench.Bytes, source);
        Pages.Free(source);

        Assert.Equal((PlaceOutcome.Placed, (long)PerStretch), (result.Outcome, result.PagesPlaced));
        Assert.True(bench.IsHuge(1));
        Assert.Equal(PerStretch, bench.Block.MissingPages);
        bench.AssertContent(PerStretch, 2 * PerStretch);
        PlacementStatistics statistics = bench.Placer.Statistics;
        Assert.Equal((StretchBench.Bytes, 512L, 1L, 1L), (statistics.MovedBytes, statistics.MovedPages, statistics.StretchesBegun, statistics.StretchesMoved));
        Assert.Equal(StretchBench.Bytes, statistics.Bytes);
    });

    [Fact(Timeout = Limit)]
    public async Task AStretchThatWasTouchedStaysHugeAndItsThreadIsWoken() => await Task.Run(() =>
    {
        // One fault leaves a page table, on which MOVE would split the huge page.
        using StretchBench bench = new(1);
        FaultingThread thread = bench.Arena.Read(7);
        _ = bench.Arena.NextMessage();
        nuint source = bench.Source(0, PerStretch);

        PlaceResult result = bench.Placer.PlaceStretch(bench.Block, 0, source);

        Assert.True(result.IsReceived);
        Assert.True(thread.Wait(Deadline.Default));
        bench.AssertContent(0, PerStretch);
        Pages.Free(source);
        Assert.SkipUnless(bench.Placer.Statistics.StretchesSplit == 0, "This kernel keeps page tables that are discarded whole: Linux 6.14 with CONFIG_PT_RECLAIM frees them.");
        Assert.True(bench.IsHuge(0));
    });

    [Fact(Timeout = Limit)]
    public async Task AStretchOfWhichAPageIsThereIsCopiedAndThePageIsLeftAlone() => await Task.Run(() =>
    {
        using StretchBench bench = new(1);
        nuint other = Pages.Make(9999, 4096);
        Assert.True(bench.Placer.Place(bench.Block, 100 * 4096, other, 4096).IsReceived);
        nuint source = bench.Source(0, PerStretch);

        PlaceResult result = bench.Placer.PlaceStretch(bench.Block, 0, source);

        Assert.Equal((PlaceOutcome.Placed, PerStretch - 1L), (result.Outcome, result.PagesPlaced));
        bench.AssertContent(0, 100);
        bench.AssertContent(101, PerStretch);
        bench.AssertPage(100, 9999);
        Assert.Equal(0, bench.Placer.Statistics.MovedBytes);
        Pages.Free(source);
        Pages.Free(other);
    });

    [Fact(Timeout = Limit)]
    public async Task SwitchedOffNothingIsMoved() => await Task.Run(() =>
    {
        using StretchBench bench = new(1, new PlacerOptions { Stretches = StretchPlacement.Off });
        using StagingWindow window = bench.Placer.CreateWindow();

        bench.Stream(window, 0, PerStretch);

        Assert.True(window.Flush().IsReceived);
        bench.AssertContent(0, PerStretch);
        Assert.Equal((0L, 0L), (bench.Placer.Statistics.MovedBytes, bench.Placer.Statistics.StretchesBegun));
    });

    [Fact(Timeout = Limit)]
    public async Task SharedMemoryAndUnalignedStretchesAreCopied() => await Task.Run(() =>
    {
        using PlacerBench shared = new(RawMapping.Memfd(2 * PerStretch));
        using StretchBench aligned = new(2);
        nuint source = aligned.Source(0, PerStretch);

        Assert.True(shared.Placer.PlaceStretch(shared.Block, 0, source).IsReceived);
        Assert.True(aligned.Placer.PlaceStretch(aligned.Block, 4096, source).IsReceived);
        Assert.Equal(PlaceOutcome.InvalidRange, aligned.Placer.PlaceStretch(aligned.Block, StretchBench.Bytes + 4096, source).Outcome);

        Assert.Equal((0L, 0L), (shared.Placer.Statistics.MovedBytes, aligned.Placer.Statistics.MovedBytes));
        Pages.Free(source);
    });

    [Fact(Timeout = Limit)]
    public async Task AStreamInOrderBecomesHugePages() => await Task.Run(() =>
    {
        using StretchBench bench = new(4);
        using StagingWindow window = bench.Placer.CreateWindow();

        // Every fifth page is zero, in staging that was used for other pages before.
        bench.Stream(window, 0, 4 * PerStretch, zero: page => page % 5 == 0);

        Assert.False(window.IsFilling);
        Assert.True(window.Flush().IsReceived);
        Assert.Equal(0, bench.Block.MissingPages);
        bench.AssertContent(0, 4 * PerStretch, zero: page => page % 5 == 0);
        Assert.All(Enumerable.Range(0, 4), s => Assert.True(bench.IsHuge(s)));
        PlacementStatistics statistics = bench.Placer.Statistics;
        Assert.Equal((4L, 4L, 410L), (statistics.StretchesBegun, statistics.StretchesMoved, statistics.MovedZeroPages));
    });

    [Fact(Timeout = Limit)]
    public async Task NothingOfAStretchIsPlacedBeforeItIsFullAndAFlushPlacesAll() => await Task.Run(() =>
    {
        using StretchBench bench = new(1);
        using StagingWindow window = bench.Placer.CreateWindow();

        bench.Stream(window, 0, 300, zero: page => page is > 40 and < 60);
        Assert.True(window.IsFilling);
        Assert.Equal(PerStretch, bench.Block.MissingPages);

        Assert.True(window.Flush().IsReceived);
        Assert.Equal((false, PerStretch - 300L), (window.IsFilling, bench.Block.MissingPages));
        bench.AssertContent(0, 300, zero: page => page is > 40 and < 60);
        Assert.Equal((1L, 1L, 0L), (bench.Placer.Statistics.StretchesBegun, bench.Placer.Statistics.StretchesUnfinished, bench.Placer.Statistics.MovedBytes));
    });

    [Fact(Timeout = Limit)]
    public async Task AFaultOnAStagedPageIsServedFromStaging() => await Task.Run(() =>
    {
        using StretchBench bench = new(1);
        using StagingWindow window = bench.Placer.CreateWindow();
        bench.Stream(window, 0, 300);
        FaultingThread thread = bench.Arena.Read(123);
        _ = bench.Arena.NextMessage();
        _ = bench.Block.Requested.TestAndSet(123);

        Assert.True(bench.Placer.TryPlaceStaged(bench.Block, 123));
        Assert.False(bench.Placer.TryPlaceStaged(bench.Block, 301));

        Assert.True(thread.Wait(Deadline.Default));
        bench.AssertPage(123, 123);
        bench.Stream(window, 300, PerStretch - 300);
        Assert.True(window.Flush().IsReceived);
        Assert.Equal(0, bench.Block.MissingPages);
        bench.AssertContent(0, PerStretch);
        PlacementStatistics statistics = bench.Placer.Statistics;
        Assert.Equal((1L, 1L, 0L), (statistics.StagedPagesPlacedOnFault, statistics.StretchesDisturbed, statistics.MovedBytes));
    });

    [Fact(Timeout = Limit)]
    public async Task AnAwaitedPageDoesNotWaitForItsStretch() => await Task.Run(() =>
    {
        using StretchBench bench = new(1);
        using StagingWindow window = bench.Placer.CreateWindow();
        bench.Stream(window, 0, 100);
        _ = bench.Block.Requested.TestAndSet(100);

        bench.Stream(window, 100, 1);
        Assert.True(window.FlushPages().IsReceived);

        Assert.True(bench.Block.Received.Test(100));
        Assert.Equal((false, 1L), (window.IsFilling, bench.Placer.Statistics.StretchesDisturbed));
        bench.AssertContent(0, 101);
    });

    [Fact(Timeout = Limit)]
    public async Task MostlyZeroStretchesTakeNoHugePage() => await Task.Run(() =>
    {
        using StretchBench bench = new(1, new PlacerOptions { StretchZeroPages = 500 });
        using StagingWindow window = bench.Placer.CreateWindow();

        bench.Stream(window, 0, PerStretch, zero: page => page % 100 != 3);

        Assert.True(window.Flush().IsReceived);
        bench.AssertContent(0, PerStretch, zero: page => page % 100 != 3);
        Assert.Equal((1L, 6L * 4096, 0L), (bench.Placer.Statistics.StretchesSparse, bench.Placer.Statistics.CopiedBytes, bench.Placer.Statistics.MovedBytes));
    });

    [Fact(Timeout = Limit)]
    public async Task ASourceThatGoesElsewhereLeavesNothingBehind() => await Task.Run(() =>
    {
        using StretchBench bench = new(2);
        using StagingWindow window = bench.Placer.CreateWindow();

        bench.Stream(window, 0, 50);
        bench.Stream(window, PerStretch, PerStretch);
        bench.Stream(window, 50, PerStretch - 50);

        Assert.True(window.Flush().IsReceived);
        Assert.Equal(0, bench.Block.MissingPages);
        bench.AssertContent(0, 2 * PerStretch);
        Assert.Equal((1L, 1L), (bench.Placer.Statistics.StretchesMoved, bench.Placer.Statistics.StretchesUnfinished));
    });

    [Theory(Timeout = Limit)]
    [InlineData(50)]
    [InlineData(PerStretch)]
    public async Task WhatLiesBehindTheEndOfAStretchIsInSightBeforeThatStretchIsPlaced(int first) => await Task.Run(() =>
    {
        // All this has been received at once: a stretch in part or whole, the beginning of the next, and that of a third.
        using StretchBench bench = new(3);
        using StagingWindow window = bench.Placer.CreateWindow();
        nuint source = bench.Source(0, 3 * PerStretch);
        foreach ((int page, int count) in new[] { (0, first), (PerStretch, 20), (2 * PerStretch, 20) })
        {
            window.Add(bench.Block, page * 4096L, source + (nuint)(page * 4096), count);
        }

        Assert.Equal((0L, 3L * PerStretch), (bench.Placer.Statistics.Operations, bench.Block.MissingPages));
        foreach (int page in new[] { 2 * PerStretch + 19, PerStretch + 19, first - 1 })
        {
            Assert.True(bench.Placer.TryPlaceStaged(bench.Block, page));
            bench.AssertPage(page, page);
        }

        Assert.True(window.Flush().IsReceived);
        bench.AssertContent(0, first);
        bench.AssertContent(PerStretch, PerStretch + 20);
        bench.AssertContent(2 * PerStretch, (2 * PerStretch) + 20);
        Assert.Equal(first + 40, (3 * PerStretch) - bench.Block.MissingPages);
        Pages.Free(source);
    });

    [Fact(Timeout = Limit)]
    public async Task AsManyStretchesAsAreAtHandBecomeHugePages() => await Task.Run(() =>
    {
        using StretchBench bench = new(5);
        using StagingWindow window = bench.Placer.CreateWindow();
        nuint source = bench.Source(0, 5 * PerStretch);

        window.Add(bench.Block, 0, source, 5 * PerStretch);

        Assert.True(window.Flush().IsReceived);
        bench.AssertContent(0, 5 * PerStretch);
        Assert.Equal(5, bench.Placer.Statistics.StretchesMoved);
        Pages.Free(source);
    });

    [Fact(Timeout = Limit)]
    public async Task StagedPagesAreOutOfSightOnceTheStretchIsOver() => await Task.Run(() =>
    {
        // Placed, thrown away and touched again: it is the source's turn, not a stretch's that is no more.
        using StretchBench bench = new(1);
        using StagingWindow window = bench.Placer.CreateWindow();
        bench.Stream(window, 0, PerStretch);
        bench.Block.Discard(new PageRange(0, StretchBench.Bytes));

        Assert.False(bench.Placer.TryPlaceStaged(bench.Block, 5));

        bench.Stream(window, 0, 20);
        Assert.True(bench.Placer.TryPlaceStaged(bench.Block, 5));
        bench.Block.Discard(new PageRange(5 * 4096, 4096));
        Assert.False(bench.Placer.TryPlaceStaged(bench.Block, 5));
        Assert.True(window.Flush().IsReceived);
        Assert.False(bench.Block.Received.Test(5));
    });

    [Fact(Timeout = Limit)]
    public async Task APageThatTheHostRemovedIsNotMovedOver() => await Task.Run(() =>
    {
        using StretchBench bench = new(1);
        using StagingWindow window = bench.Placer.CreateWindow();
        bench.Stream(window, 0, 100);

        // What the fault thread does with a REMOVE event.
        _ = bench.Block.MarkReceived(50, 3);
        bench.Stream(window, 100, PerStretch - 100);

        Assert.True(window.Flush().IsReceived);
        Assert.Equal((0L, 1L), (bench.Placer.Statistics.MovedBytes, bench.Placer.Statistics.StretchesDisturbed));
        bench.AssertContent(0, 50);
        bench.AssertContent(53, PerStretch);
        Assert.False(bench.IsPresent(50));
        Assert.False(bench.IsPresent(52));
    });
}
