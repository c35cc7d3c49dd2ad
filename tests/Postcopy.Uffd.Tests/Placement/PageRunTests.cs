using Postcopy.Uffd.Tests.Destination;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Placement;

/// <summary>Neighbouring pages that are added together, and received to where they are staged.</summary>
public sealed class PageRunTests
{
    private const int Limit = 60_000;
    private const int PerStretch = 512;

    [Fact(Timeout = Limit)]
    public async Task WhatIsReceivedIntoAStretchIsNotCopiedAgain() => await Task.Run(() =>
    {
        using StretchBench bench = new(2);
        using StagingWindow window = bench.Placer.CreateWindow();
        for (int page = 0; page < 2 * PerStretch;)
        {
            int pages = 100;
            nuint room = window.RoomFor(bench.Block, page * 4096L, ref pages);
            Assert.NotEqual((nuint)0, room);
            Assert.Equal(Math.Min(100, PerStretch - (page % PerStretch)), pages);
            Fill(room, page, pages);
            window.Add(bench.Block, page * 4096L, room, pages);
            Assert.True(window.FlushPages().IsReceived);
            page += pages;
        }

        bench.AssertContent(0, 2 * PerStretch);
        Assert.Equal((2L, 0L), (bench.Placer.Statistics.StretchesMoved, bench.Placer.Statistics.CopiedPages));
    });

    [Fact(Timeout = Limit)]
    public async Task WhatWasReceivedInsteadOfWhatWasExpectedIsNotLeftInZeroPages() => await Task.Run(() =>
    {
        using StretchBench bench = new(1);
        using StagingWindow window = bench.Placer.CreateWindow();
        int pages = PerStretch;
        nuint room = window.RoomFor(bench.Block, 0, ref pages);
        Fill(room, 7, PerStretch);

        bench.Stream(window, 0, PerStretch, zero: page => page % 2 == 1);

        Assert.True(window.Flush().IsReceived);
        Assert.Equal(1, bench.Placer.Statistics.StretchesMoved);
        bench.AssertContent(0, PerStretch, zero: page => page % 2 == 1);
    });

    [Fact(Timeout = Limit)]
    public async Task ThereIsNoRoomWherePagesAreStaged() => await Task.Run(() =>
    {
        using StretchBench bench = new(1);
        using StagingWindow window = bench.Placer.CreateWindow();
        bench.Stream(window, 0, 20);
        bench.Stream(window, 150, 3);

        int before = 300;
        Assert.NotEqual((nuint)0, window.RoomFor(bench.Block, 20 * 4096, ref before));
        Assert.Equal(130, before);
        int on = 300;
        Assert.Equal((nuint)0, window.RoomFor(bench.Block, 151 * 4096, ref on));
        int behind = 300;
        nuint room = window.RoomFor(bench.Block, 153 * 4096, ref behind);
        Assert.Equal(300, behind);
        Fill(room, 153, behind);
        window.Add(bench.Block, 153 * 4096, room, behind);

        Assert.True(window.Flush().IsReceived);
        bench.AssertContent(0, 20);
        bench.AssertContent(150, 453);
    });

    [Fact(Timeout = Limit)]
    public async Task PagesInAStretchThatSomebodyTouchedMeanwhileAreNotOverwritten() => await Task.Run(() =>
    {
        // Received into the first stretch, which a thread touches; the next one fills the same staging right away.
        using StretchBench bench = new(2);
        using StagingWindow window = bench.Placer.CreateWindow();
        bench.Stream(window, 0, 400);
        int pages = 112;
        nuint room = window.RoomFor(bench.Block, 400 * 4096, ref pages);
        Assert.Equal(112, pages);
        Fill(room, 400, pages);
        _ = bench.Block.Requested.TestAndSet(410);

        window.Add(bench.Block, 400 * 4096, room, pages);
        nuint next = bench.Source(PerStretch, PerStretch);
        window.Add(bench.Block, PerStretch * 4096, next, PerStretch);

        Assert.True(window.Flush().IsReceived);
        Assert.Equal(0, bench.Block.MissingPages);
        bench.AssertContent(0, 2 * PerStretch);
        Pages.Free(next);
    });

    [Fact(Timeout = Limit)]
    public async Task ARunOverPagesThatAreStagedAlreadyLeavesThoseAsTheyCame() => await Task.Run(() =>
    {
        using StretchBench bench = new(1);
        using StagingWindow window = bench.Placer.CreateWindow();
        nuint first = bench.Source(0, 20);
        nuint other = bench.Source(100, PerStretch);
        window.Add(bench.Block, 0, first, 10);
        window.Add(bench.Block, 15 * 4096, first + (15 * 4096), 5);

        // As page 5 on: five that are there, five that are not, five that are, and the rest.
        window.Add(bench.Block, 5 * 4096, other + (5 * 4096), PerStretch - 5);

        Assert.True(window.Flush().IsReceived);
        Assert.Equal(1, bench.Placer.Statistics.StretchesMoved);
        bench.AssertContent(0, 10);
        bench.AssertContent(15, 20);
        for (int page = 10; page < PerStretch; page++)
        {
            if (page is < 15 or >= 20)
            {
                bench.AssertPage(page, page + 100);
            }
        }

        Pages.Free(first);
        Pages.Free(other);
    });

    [Theory(Timeout = Limit)]
    [InlineData(64 << 10, 4)]
    [InlineData((64 << 10) + 100, 4)]
    [InlineData(1, 64)]
    [InlineData(1 << 20, 1)]
    public async Task ALongPlacementIsMadeInPiecesThatKeepNobodyWaitingLong(int copyRunBytes, long operations) => await Task.Run(() =>
    {
        using StretchBench bench = new(1, new PlacerOptions { CopyRunBytes = copyRunBytes });
        nuint source = bench.Source(3, 64);

        Assert.True(bench.Placer.Place(bench.Block, 3 * 4096, source, 64 * 4096).IsReceived);

        Assert.Equal((operations, 64 * 4096L), (bench.Placer.Statistics.Operations, bench.Placer.Statistics.CopiedBytes));
        bench.AssertContent(3, 67);
        Pages.Free(source);
    });

    [Theory]
    [InlineData(100, 4096)]
    [InlineData(0, 100)]
    [InlineData(-4096, 4096)]
    [InlineData(0, 0)]
    [InlineData(0, -4096)]
    [InlineData(4 * 4096, 4096)]
    [InlineData(3 * 4096, 2 * 4096)]
    [InlineData(long.MaxValue & ~4095, 4096)]
    public void PrecopyPagesOutsideTheBlockAreRefusedAndNothingIsWritten(long offset, int length)
    {
        using RawMapping mapping = RawMapping.Anonymous(8);
        using RamBlockRegistry registry = new();
        RamBlock block = registry.Add(new RamBlockSpec { Name = "ram", HostAddress = mapping.Page(2), UsedLength = 4 * 4096 });
        using PostcopyPlacer placer = new();

        Assert.Throws<RamBlockException>(() => placer.WritePrecopy(block, offset, ZeroSource.Address, length));
        Assert.Throws<RamBlockException>(() => placer.ZeroPrecopy(block, offset, length));

        Assert.Equal(4, block.MissingPages);
        Assert.All(Enumerable.Range(0, 8), page => Assert.False(PageTables.IsPresent(mapping.Page(page))));
    }

    [Fact(Timeout = Limit)]
    public async Task AStretchThatTheBlocksEndCutsOffIsNotBegun() => await Task.Run(() =>
    {
        Requires.HugePageMoves();
        using RawMapping mapping = RawMapping.AlignedAnonymous(2 * PerStretch);
        using UffdArena arena = new(mapping);
        using RamBlockRegistry registry = new();
        RamBlock block = registry.Add(new RamBlockSpec { Name = "ram", HostAddress = mapping.Address, UsedLength = (PerStretch + 100) * 4096L });
        block.Attach(arena.Uffd, arena.Registration);
        using PostcopyPlacer placer = new();
        using StagingWindow window = placer.CreateWindow();

        window.Add(block, 0, 0, PerStretch);
        window.Add(block, StretchBench.Bytes, ZeroSource.Address);

        Assert.Equal((0, false, PerStretch + 1), ((int)placer.Statistics.StretchesBegun, window.IsFilling, window.Count));
        Assert.True(window.Flush().IsReceived);
        Assert.Equal(99, block.MissingPages);
    });

    [Fact(Timeout = Limit)]
    public async Task MorePagesThanTheWindowHoldsInAStretchThatSomebodyTouchedAreNotOverwrittenByTheNextOne() => await Task.Run(() =>
    {
        using StretchBench bench = new(2);
        using StagingWindow window = bench.Placer.CreateWindow(capacity: 100);
        int pages = PerStretch;
        nuint room = window.RoomFor(bench.Block, 0, ref pages);
        Assert.Equal((true, PerStretch), (room != 0, pages));
        for (int i = 0; i < PerStretch; i++)
        {
            StretchBench.Fill(room + (nuint)(i * 4096), i);
        }

        _ = bench.Block.Requested.TestAndSet(3);
        nuint next = bench.Source(PerStretch, PerStretch);
        window.Add(bench.Block, 0, room, PerStretch);
        window.Add(bench.Block, StretchBench.Bytes, next, PerStretch);

        Assert.True(window.Flush().IsReceived);
        bench.AssertContent(0, 2 * PerStretch);
        Pages.Free(next);
    });

    [Fact(Timeout = Limit)]
    public async Task OfALongRunOfZerosWhatIsWaitedForIsPlacedAtOnceAndTheRestTogether() => await Task.Run(() =>
    {
        using StretchBench bench = new(3);
        Order order = new();
        bench.Placer.Observer = order;
        using StagingWindow window = bench.Placer.CreateWindow();
        bench.Stream(window, 0, 10);
        nuint page = bench.Source(20, 1);
        _ = bench.Block.Requested.TestAndSet(1400);

        window.Add(bench.Block, 700 * 4096, 0, 800);

        Assert.Equal((1, true, 800), (bench.Block.Received.CountSet(700, 800), bench.Block.Received.Test(1400), window.Count));
        Assert.True(window.Flush().IsReceived);
        Assert.True(bench.Block.Received.AllSet(700, 800));
        Assert.Equal([true, false], order.Awaited.Take(2));
        Assert.Equal(1, order.Awaited.Count(a => a));
        bench.AssertContent(0, 10);
        bench.AssertContent(700, 1500, zero: _ => true);
        Assert.InRange(bench.Placer.Statistics.Operations, 3, 6);
        Pages.Free(page);
    });

    [Fact(Timeout = Limit)]
    public async Task WholeStretchesOfZerosBecomeTheHugeZeroPageWhereThatIsWanted() => await Task.Run(() =>
    {
        using StretchBench bench = new(40, new PlacerOptions { HugeZeroPages = true });
        bool given = StretchBench.HasHugeZeroPage;
        using StagingWindow window = bench.Placer.CreateWindow();

        // One page is waited for, so its stretch is not whole; the run begins and ends inside others.
        _ = bench.Block.Requested.TestAndSet((30 * PerStretch) + 5);
        window.Add(bench.Block, 100 * 4096, 0, (39 * PerStretch) - 100 + 7);

        Assert.True(window.Flush().IsReceived);
        Assert.True(bench.Block.Received.AllSet(100, (39 * PerStretch) - 100 + 7));
        PlacementStatistics statistics = bench.Placer.Statistics;
        Assert.Equal((given ? 29L : 0L, 0L), (statistics.ZeroStretchesMoved, statistics.MovedPages));
        Assert.Equal((39 * PerStretch) - 100 + 7, statistics.ZeroPages);
        Assert.All(Enumerable.Range(1, 29), s => Assert.Equal(given, bench.IsHuge(s)));
        Assert.False(bench.IsHuge(0));

        // With or without, zeros take no memory.
        Assert.All(Enumerable.Range(0, 40), s => Assert.Equal(0, PageTables.CountFilled(bench.Arena.Page(s * PerStretch), (nuint)StretchBench.Bytes)));
        bench.AssertContent(PerStretch, 3 * PerStretch, zero: _ => true);

        // Neither that memory nor anybody else's is the one that is written to.
        bench.Block.Write((2 * StretchBench.Bytes) + 4096, Pages.Expected(9, 4096));
        bench.AssertPage((2 * PerStretch) + 1, 9);
        bench.AssertContent(PerStretch, 2 * PerStretch, zero: _ => true);
        bench.AssertContent((2 * PerStretch) + 2, 3 * PerStretch, zero: _ => true);
        bench.AssertContent(29 * PerStretch, 30 * PerStretch, zero: _ => true);
    });

    [Fact(Timeout = Limit)]
    public async Task ZerosAreNotMovedOverPagesThatAreThere() => await Task.Run(() =>
    {
        using StretchBench bench = new(4, new PlacerOptions { HugeZeroPages = true });
        using StagingWindow window = bench.Placer.CreateWindow();
        nuint source = bench.Source(PerStretch + 3, 1);
        Assert.True(bench.Placer.Place(bench.Block, (PerStretch + 3) * 4096, source, 4096).IsReceived);
        Pages.Free(source);

        window.Add(bench.Block, 0, 0, 4 * PerStretch);

        Assert.True(window.Flush().IsReceived);
        Assert.Equal(0, bench.Block.MissingPages);
        bench.AssertContent(0, 4 * PerStretch, zero: page => page != PerStretch + 3);
    });

    [Fact(Timeout = Limit)]
    public async Task UnaskedNoHugeZeroPageIsMoved() => await Task.Run(() =>
    {
        using StretchBench bench = new(2);
        using StagingWindow window = bench.Placer.CreateWindow();
        window.Add(bench.Block, 0, 0, 2 * PerStretch);

        Assert.True(window.Flush().IsReceived);
        Assert.Equal((0L, 2L * PerStretch), (bench.Placer.Statistics.ZeroStretchesMoved, bench.Placer.Statistics.ZeroPages));
        Assert.False(bench.IsHuge(0));
    });

    [Fact]
    public void PagesOutsideTheBlockAreRefused()
    {
        using StretchBench bench = new(1);
        using StagingWindow window = bench.Placer.CreateWindow();

        Assert.Throws<ArgumentOutOfRangeException>(() => window.Add(bench.Block, 4096, 0, PerStretch));
        Assert.Throws<ArgumentOutOfRangeException>(() => window.Add(bench.Block, 0, 0, 0));
        Assert.Throws<ArgumentOutOfRangeException>(() => window.Add(bench.Block, -4096, 0, 1));
    }

    private static void Fill(nuint room, int page, int pages)
    {
        for (int i = 0; i < pages; i++)
        {
            StretchBench.Fill(room + (nuint)(i * 4096), page + i);
        }
    }

    private sealed class Order : IPlacementObserver
    {
        internal List<bool> Awaited { get; } = [];

        void IPlacementObserver.OnPlaced(RamBlock block, bool awaited) => Awaited.Add(awaited);

        void IPlacementObserver.OnStretchLeft(RamBlock block, long firstPage) => Assert.Fail("No stretch is asked for.");
    }
}
