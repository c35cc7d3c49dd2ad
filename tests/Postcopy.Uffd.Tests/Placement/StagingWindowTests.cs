using Postcopy.Uffd.Tests.Destination;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Placement;

public sealed class StagingWindowTests
{
    private const int Limit = 60_000;

    [Fact(Timeout = Limit)]
    public async Task AStagedPageIsPlacedByTheFaultThreadAndNotAgainByTheChannel() => await Task.Run(() =>
    {
        using PlacerBench bench = new(RawMapping.Anonymous(8));
        using StagingWindow window = bench.Placer.CreateWindow(stretches: false);
        nuint source = bench.Source(3, 1);
        window.Add(bench.Block, 3 * 4096, source);
        window.Add(bench.Block, 4 * 4096, 0);
        Assert.False(bench.Block.Received.Test(3));

        Assert.True(bench.Placer.TryPlaceStaged(bench.Block, 3));
        bench.AssertContent(3, 3);
        Assert.False(bench.Placer.TryPlaceStaged(bench.Block, 5));

        Assert.True(window.Flush().IsReceived);
        Assert.Equal((1L, 4096L), (bench.Placer.Statistics.StagedPagesPlacedOnFault, bench.Placer.Statistics.CopiedBytes));
        bench.AssertZero(4);
        Assert.Equal(0, window.Count);
        Pages.Free(source);
    });

    [Theory(Timeout = Limit)]
    [InlineData(false)]
    [InlineData(true)]
    public async Task APageInHandOfTheChannelIsNotTakenForTheSamePageOfAnotherBlock(bool zero) => await Task.Run(() =>
    {
        // While the channel places page 3 of one block, a thread faults on page 3 of the other.
        using PlacerBench bench = new(RawMapping.Anonymous(8));
        using RawMapping more = RawMapping.Anonymous(8);
        RamBlock other = bench.Registry.Add(new RamBlockSpec { Name = "other", HostAddress = more.Address, UsedLength = 8 * 4096 });
        using StagingWindow window = bench.Placer.CreateWindow(stretches: false);
        DuringPlacement probe = new(() => bench.Placer.TryPlaceStaged(other, 3), () => bench.Placer.TryPlaceStaged(bench.Block, 3));
        bench.Placer.Observer = probe;
        window.Add(bench.Block, 3 * 4096, zero ? 0 : bench.Source(3, 1));

        Assert.True(window.Flush().IsReceived);

        Assert.Equal((false, true), (probe.Other, probe.Own));
        Assert.Equal(0, bench.Placer.Statistics.StagedPagesPlacedOnFault);
    });

    [Theory(Timeout = Limit)]
    [InlineData(false)]
    [InlineData(true)]
    public async Task AStagedPageIsNotPutIntoAnotherBlock(bool zero) => await Task.Run(() =>
    {
        using UffdArena arena = new(RawMapping.Anonymous(16));
        using RamBlockRegistry registry = new();
        RamBlock one = registry.Add(new RamBlockSpec { Name = "one", HostAddress = arena.Memory.Address, UsedLength = 8 * 4096 });
        RamBlock other = registry.Add(new RamBlockSpec { Name = "other", HostAddress = arena.Memory.Address + (8 * 4096), UsedLength = 8 * 4096 });
        one.Attach(arena.Uffd, arena.Registration);
        other.Attach(arena.Uffd, arena.Registration);
        using PostcopyPlacer placer = new();
        using StagingWindow window = placer.CreateWindow(stretches: false);
        window.Add(one, 3 * 4096, zero ? 0 : ZeroSource.Address);

        Assert.False(placer.TryPlaceStaged(other, 3));

        Assert.True(window.Flush().IsReceived);
        Assert.Equal((true, false), (one.Received.Test(3), other.Received.Test(3)));
    });

    [Fact(Timeout = Limit)]
    public async Task ZeroPagesOfTwoBlocksInTurnsAreAllInSight() => await Task.Run(() =>
    {
        using UffdArena arena = new(RawMapping.Anonymous(128));
        using RamBlockRegistry registry = new();
        RamBlock[] blocks = [.. Enumerable.Range(0, 2).Select(i => registry.Add(new RamBlockSpec { Name = $"{i}", HostAddress = arena.Memory.Address + (nuint)(i * 64 * 4096), UsedLength = 64 * 4096 }))];
        foreach (RamBlock block in blocks)
        {
            block.Attach(arena.Uffd, arena.Registration);
        }

        using PostcopyPlacer placer = new();
        using StagingWindow window = placer.CreateWindow(stretches: false);
        for (int page = 0; page < 64; page += 2)
        {
            window.Add(blocks[page / 2 % 2], page * 4096L, 0);
        }

        for (int page = 0; page < 64; page++)
        {
            Assert.Equal(page % 4 == 0, placer.TryPlaceStaged(blocks[0], page));
            Assert.Equal(page % 4 == 2, placer.TryPlaceStaged(blocks[1], page));
        }

        Assert.Equal((16, 16), ((int)blocks[0].Received.CountSet(), (int)blocks[1].Received.CountSet()));
        Assert.True(window.Flush().IsReceived);
    });

    [Theory(Timeout = Limit)]
    [InlineData(false)]
    [InlineData(true)]
    public async Task AFullWindowIsRefusedAndAFlushEmptiesIt(bool zero) => await Task.Run(() =>
    {
        using PlacerBench bench = new(RawMapping.Anonymous(512));
        using StagingWindow window = bench.Placer.CreateWindow(stretches: false);
        int step = zero ? 2 : 1;
        nuint source = zero ? 0 : bench.Source(7, 1);
        for (int i = 0; i < window.Capacity; i++)
        {
            window.Add(bench.Block, i * step * 4096L, source);
        }

        // Runs of zeros come on top of its capacity.
        Assert.Equal((!zero, window.Capacity), (window.IsFull, window.Count));
        if (!zero)
        {
            Assert.Throws<InvalidOperationException>(() => window.Add(bench.Block, 511 * 4096, source));
        }

        Assert.True(window.Flush().IsReceived);
        Assert.Equal(window.Capacity, bench.Block.Received.CountSet());
        // Neighbours go together, 64 KiB at a time; zeros that have none cannot.
        Assert.Equal(zero ? 256 : 16, bench.Placer.Statistics.Operations);
    });

    [Fact(Timeout = Limit)]
    public async Task FaultThreadAndChannelRacingPlaceEachPageOnce() => await Task.Run(() =>
    {
        const int pages = 4096;
        using PlacerBench bench = new(RawMapping.Anonymous(pages));
        using StagingWindow window = bench.Placer.CreateWindow(stretches: false);
        nuint source = bench.Source(1, 1);
        bool stop = false;
        Task faults = Task.Factory.StartNew(() =>
        {
            Random random = new(1);
            while (!Volatile.Read(ref stop))
            {
                int page = random.Next(pages);
                if (!bench.Block.Received.Test(page))
                {
                    _ = bench.Placer.TryPlaceStaged(bench.Block, page);
                }
            }
        }, TaskCreationOptions.LongRunning);
        for (int page = 0; page < pages; page++)
        {
            window.Add(bench.Block, page * 4096L, page % 3 == 0 ? 0 : source);
            if (window.IsFull)
            {
                Assert.True(window.Flush().IsReceived);
            }
        }

        Assert.True(window.Flush().IsReceived);
        Volatile.Write(ref stop, true);
        faults.WaitAsync(Deadline.Default).GetAwaiter().GetResult();
        Assert.Equal(0, bench.Block.MissingPages);
        Assert.Equal(pages * 4096L, bench.Placer.Statistics.CopiedBytes + bench.Placer.Statistics.ZeroBytes);
        for (int page = 0; page < pages; page++)
        {
            if (page % 3 == 0)
            {
                bench.AssertZero(page);
            }
            else
            {
                bench.AssertContent(page, 1);
            }
        }

        Pages.Free(source);
    });

    /// <summary>Looks at the window while an entry of it is in the channel's hand.</summary>
    private sealed class DuringPlacement(Func<bool> other, Func<bool> own) : IPlacementObserver
    {
        internal bool Other { get; private set; }

        internal bool Own { get; private set; }

        public void OnPlaced(RamBlock block, bool awaited)
        {
            Other = other();
            Own = own();
        }

        public void OnStretchLeft(RamBlock block, long firstPage) => Assert.Fail("No stretch is asked for.");
    }
}
