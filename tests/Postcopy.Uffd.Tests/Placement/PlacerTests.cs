using Postcopy.Uffd.Interop;
using Postcopy.Uffd.Tests.Destination;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Placement;

public sealed class PlacerTests
{
    private const int Limit = 60_000;

    [Fact(Timeout = Limit)]
    public async Task APlacedPageWakesItsWaiterAndCountsOnce() => await Task.Run(() =>
    {
        using PlacerBench bench = new(RawMapping.Anonymous(4));
        FaultingThread waiter = bench.Arena.Read(2);
        _ = bench.Arena.NextMessage();
        _ = bench.Block.Requested.TestAndSet(2);

        PlaceResult result = bench.Place(2);

        Assert.Equal((PlaceOutcome.Placed, 1L), (result.Outcome, result.PagesPlaced));
        Assert.Equal(Pages.Expected(2, 4096)[0], (byte)waiter.Result);
        Assert.Equal(3, bench.Block.MissingPages);
        Assert.True(bench.Block.Received.Test(2));
        Assert.Equal(1, bench.Placer.Statistics.AwaitedPlacements);
        Assert.Equal(4096, bench.Placer.Statistics.CopiedBytes);
        Assert.Equal(PlaceOutcome.AlreadyReceived, bench.Place(2).Outcome);
        Assert.Equal(1, bench.Placer.Statistics.AlreadyReceivedPages);
        bench.AssertContent(2, 2);
    });

    [Fact(Timeout = Limit)]
    public async Task ZeroPagesNeedNoSourceAndWake() => await Task.Run(() =>
    {
        using PlacerBench bench = new(RawMapping.Anonymous(600));
        FaultingThread waiter = bench.Arena.Read(599);
        _ = bench.Arena.NextMessage();

        PlaceResult result = bench.Placer.PlaceZero(bench.Block, 0, 600 * 4096);

        Assert.Equal((PlaceOutcome.Placed, 600L), (result.Outcome, result.PagesPlaced));
        Assert.Equal(0, waiter.Result);
        Assert.Equal(600 * 4096, bench.Placer.Statistics.ZeroBytes);
        Assert.Equal(0, bench.Block.MissingPages);
    });

    [Theory(Timeout = Limit)]
    [InlineData(-4096, 4096)]
    [InlineData(0, 0)]
    [InlineData(0, -4096)]
    [InlineData(100, 4096)]
    [InlineData(0, 100)]
    [InlineData(4 * 4096, 4096)]
    [InlineData(3 * 4096, 2 * 4096)]
    [InlineData(long.MaxValue - 4095, 4096)]
    [InlineData(4096, long.MaxValue - 4095)]
    public async Task ARangeThatIsNotWholePagesInsideIsRefused(long offset, long length) => await Task.Run(() =>
    {
        using PlacerBench bench = new(RawMapping.Anonymous(4));
        nuint source = Pages.Make(1, 4096);
        Assert.Equal(PlaceOutcome.InvalidRange, bench.Placer.Place(bench.Block, offset, source, length).Outcome);
        Assert.Equal(PlaceOutcome.InvalidRange, bench.Placer.PlaceZero(bench.Block, offset, length).Outcome);
        Assert.Equal(4, bench.Block.MissingPages);
        Pages.Free(source);
    });

    [Fact(Timeout = Limit)]
    public async Task ABlockWithoutADescriptorIsRefused() => await Task.Run(() =>
    {
        using PlacerBench bench = new(RawMapping.Anonymous(4));
        bench.Block.Detach();
        Assert.Equal(PlaceOutcome.InvalidRange, bench.Placer.PlaceZero(bench.Block, 0, 4096).Outcome);
    });

    [Fact(Timeout = Limit)]
    public async Task AnUnreadableSourceIsNamedAndMarksNothing() => await Task.Run(() =>
    {
        using PlacerBench bench = new(RawMapping.Anonymous(4));
        PlaceResult result = bench.Placer.Place(bench.Block, 4096, 4096, 4096);
        Assert.Equal((PlaceOutcome.SourceUnreadable, 4096L, false), (result.Outcome, result.Offset, result.IsReceived));
        Assert.Equal(4, bench.Block.MissingPages);
    });

    [Fact(Timeout = Limit)]
    public async Task APageThatTheKernelHasAlreadyIsStepppedOverAndItsWaiterIsWoken() => await Task.Run(() =>
    {
        using PlacerBench bench = new(RawMapping.Anonymous(16));
        FaultingThread waiter = bench.Arena.Read(5);
        _ = bench.Arena.NextMessage();
        nuint source = bench.Source(5, 1);
        Assert.True(bench.Arena.Uffd.Copy(bench.Arena.Page(5), source, 4096, UffdPlaceFlags.DontWake).IsDone);
        Assert.False(waiter.IsDone);

        PlaceResult result = bench.Place(0, 16);

        Assert.Equal((PlaceOutcome.AlreadyPresent, 16L), (result.Outcome, result.PagesPlaced));
        Assert.Equal(Pages.Expected(5, 4096)[0], (byte)waiter.Result);
        Assert.Equal(1, bench.Placer.Statistics.AlreadyPresentPages);
        Assert.Equal(1, bench.Placer.Statistics.PartialOperations);
        Assert.Equal(15 * 4096, bench.Placer.Statistics.CopiedBytes);
        for (int page = 0; page < 16; page++)
        {
            bench.AssertContent(page, page);
        }

        Pages.Free(source);
    });

    [Fact(Timeout = Limit)]
    public async Task ARunAroundReceivedPagesTakesEachFromItsOwnPlaceInTheSource() => await Task.Run(() =>
    {
        using PlacerBench bench = new(RawMapping.Anonymous(2048));
        foreach (int page in (int[])[0, 7, 8, 511, 512, 1500, 2047])
        {
            Assert.True(bench.Place(page).IsReceived);
        }

        PlaceResult result = bench.Place(0, 2048);

        Assert.Equal((PlaceOutcome.Placed, 2041L), (result.Outcome, result.PagesPlaced));
        for (int page = 0; page < 2048; page++)
        {
            bench.AssertContent(page, page);
        }
    });

    [Theory(Timeout = Limit)]
    [InlineData(true)]
    [InlineData(false)]
    public async Task PagesWrittenThroughAnAliasAreMappedByContinue(bool waiterFirst) => await Task.Run(() =>
    {
        using PlacerBench bench = new(RawMapping.Memfd(8), UffdModes.Missing | UffdModes.Minor);
        using RawMapping alias = bench.Arena.Memory.Alias();
        FaultingThread? waiter = waiterFirst ? bench.Arena.Read(3) : null;
        if (waiterFirst)
        {
            _ = bench.Arena.NextMessage();
        }

        _ = alias.Fill(40);
        PlaceResult result = bench.Placer.PlacePageCache(bench.Block, 0, 8 * 4096);

        Assert.Equal((PlaceOutcome.Placed, 8L), (result.Outcome, result.PagesPlaced));
        Assert.Equal(43, (waiter ?? bench.Arena.Read(3)).Result);
        Assert.Equal(8 * 4096, bench.Placer.Statistics.ContinuedBytes);
    });

    [Fact(Timeout = Limit)]
    public async Task AHoleInTheFileCannotBeContinued() => await Task.Run(() =>
    {
        using PlacerBench bench = new(RawMapping.Memfd(8), UffdModes.Missing | UffdModes.Minor);
        Assert.Equal(PlaceOutcome.SourceUnreadable, bench.Placer.PlacePageCache(bench.Block, 0, 4096).Outcome);
        Assert.Equal(8, bench.Block.MissingPages);
    });

    [Fact(Timeout = Limit)]
    public async Task APageInThePageCacheIsMappedWhenItIsPlaced() => await Task.Run(() =>
    {
        using PlacerBench bench = new(RawMapping.Memfd(8), UffdModes.Missing | UffdModes.Minor);
        using RawMapping alias = bench.Arena.Memory.Alias();
        _ = alias.Fill(40);
        FaultingThread waiter = bench.Arena.Read(2);
        _ = bench.Arena.NextMessage();

        Assert.Equal(PlaceOutcome.AlreadyPresent, bench.Place(2).Outcome);
        Assert.Equal(42, waiter.Result);
        Assert.True(bench.IsPresent(2));
    });

    [Fact(Timeout = Limit)]
    public async Task PlacingPausesWhileTheAddressSpaceChangesAndThenSucceeds() => await Task.Run(() =>
    {
        using PlacerBench bench = new(RawMapping.Anonymous(8), features: UffdFeatures.EventRemove);
        FaultingThread balloon = bench.Arena.Run(() => Libc.madvise(bench.Arena.Page(0), 4096, Libc.MADV_DONTNEED));
        Assert.True(bench.Arena.WaitReadable(Deadline.Default));
        Task<PlaceResult> placing = Task.Run(() => bench.Place(1));
        Deadline.Until(() => bench.Placer.Statistics.Pauses > 3, "the placer to pause");
        Assert.False(placing.IsCompleted);

        Assert.Equal(UffdEvent.Remove, bench.Arena.NextMessage().Event);

        Assert.Equal(PlaceOutcome.Placed, placing.WaitAsync(Deadline.Default).GetAwaiter().GetResult().Outcome);
        Assert.Equal(0, balloon.Result);
        bench.AssertContent(1, 1);
    });

    [Fact(Timeout = Limit)]
    public async Task AnAddressSpaceThatGoesOnChangingGivesThePageBackAtTheDeadline() => await Task.Run(() =>
    {
        using PlacerBench bench = new(RawMapping.Anonymous(8), features: UffdFeatures.EventRemove, deadline: TimeSpan.FromMilliseconds(120));
        FaultingThread balloon = bench.Arena.Run(() => Libc.madvise(bench.Arena.Page(0), 4096, Libc.MADV_DONTNEED));
        Assert.True(bench.Arena.WaitReadable(Deadline.Default));

        Assert.Equal(PlaceOutcome.AddressSpaceChanging, bench.Place(1).Outcome);
        // It pauses up to 2 ms: a spin would be far beyond.
        Assert.InRange(bench.Placer.Statistics.Pauses, 10, 400);
        Assert.Equal(8, bench.Block.MissingPages);

        _ = bench.Arena.NextMessage();
        Assert.Equal(PlaceOutcome.Placed, bench.Place(1).Outcome);
        Assert.Equal(0, balloon.Result);
    });

    [Fact(Timeout = Limit)]
    public async Task TwoPlacersRacingPlaceEachPageOnce() => await Task.Run(() =>
    {
        const int pages = 8192;
        using PlacerBench bench = new(RawMapping.Anonymous(pages));
        using Barrier start = new(2);
        Task<long>[] placers = [.. Enumerable.Range(0, 2).Select(t => Task.Factory.StartNew(() =>
        {
            long placed = 0;
            start.SignalAndWait();
            for (int page = 0; page < pages; page += 4)
            {
                PlaceResult result = bench.Place(page, 4);
                Assert.True(result.IsReceived, result.ToString());
                placed += result.PagesPlaced;
            }

            return placed;
        }, TaskCreationOptions.LongRunning))];

        Assert.Equal(pages, Task.WhenAll(placers).WaitAsync(Deadline.Default).GetAwaiter().GetResult().Sum());
        Assert.Equal(pages * 4096L, bench.Placer.Statistics.CopiedBytes);
        Assert.Equal(0, bench.Block.MissingPages);
        for (int page = 0; page < pages; page++)
        {
            bench.AssertContent(page, page);
        }
    });

    private static void AssertReceived(PlaceResult result) => Assert.True(result.IsReceived, result.ToString());

    [Fact(Timeout = Limit)]
    public async Task DiscardsRacingPlacersAndLeasesLeaveBitmapAndKernelAgreed() => await Task.Run(() =>
    {
        // Two stretches of 2 MiB: pages of one race, pages of the other lie beside.
        const int pages = 1024;
        using PlacerBench bench = new(RawMapping.Anonymous(pages));
        using CancellationTokenSource end = new(TimeSpan.FromSeconds(2));
        int leases = 0;
        Task Run(Action<Random> body, int seed) => Task.Factory.StartNew(() =>
        {
            Random random = new(seed);
            while (!end.IsCancellationRequested)
            {
                body(random);
            }
        }, TaskCreationOptions.LongRunning);

        Task[] all =
        [
            Run(r => AssertReceived(bench.Place(r.Next(pages - 8), 1 + r.Next(8))), 1),
            Run(r => AssertReceived(bench.Place(r.Next(pages - 8), 1 + r.Next(8))), 2),
            Run(r => bench.Block.Discard(new PageRange(r.Next(pages - 4) * 4096L, (1 + r.Next(4)) * 4096L)), 3),
            Run(r =>
            {
                int page = r.Next(pages);
                try
                {
                    using PresentLease lease = bench.Block.LeasePresent(page * 4096L, 4096);
                    Assert.True(lease.Span.SequenceEqual(Pages.Expected(page, 4096)), $"Page {page} changed under its lease.");
                    leases++;
                }
                catch (InvalidOperationException)
                {
                    // Missing just now.
                }
            }, 4),
        ];
        Task.WhenAll(all).WaitAsync(Deadline.Default).GetAwaiter().GetResult();

        Assert.True(leases > 0);
        for (int page = 0; page < pages; page++)
        {
            Assert.Equal(bench.Block.Received.Test(page), bench.IsPresent(page));
        }

        Assert.Equal(pages - bench.Block.Received.CountSet(), bench.Block.MissingPages);
    });

    [Fact(Timeout = Limit)]
    public async Task PoisonedPagesFaultLoudlyAndPlacingHealsThem() => await Task.Run(() =>
    {
        Requires.Userfaultfd(UffdFeatures.Poison);
        using PlacerBench bench = new(RawMapping.Anonymous(8), features: UffdFeatures.Poison);
        Assert.True(bench.Place(3).IsReceived);

        PlaceResult result = bench.Placer.PoisonMissing(bench.Block);

        Assert.Equal((PlaceOutcome.Placed, 7L), (result.Outcome, result.PagesPlaced));
        Assert.Equal(7, bench.Block.MissingPages);
        Assert.Equal(-1, Libc.madvise(bench.Arena.Page(2), 4096, Libc.MADV_POPULATE_READ));
        bench.AssertContent(3, 3);
        Assert.True(bench.Place(0).IsReceived);
        Assert.True(bench.Placer.PlaceZero(bench.Block, 4096, 4096).IsReceived);
        bench.AssertContent(0, 0);
        bench.AssertZero(1);
    });

    [Fact(Timeout = Limit)]
    public async Task PlacingAllocatesNothing() => await Task.Run(() =>
    {
        const int pages = 4096;
        using PlacerBench bench = new(RawMapping.Anonymous(pages));
        nuint source = Pages.Make(1, 16 * 4096);
        for (int page = 0; page < 512; page += 16)
        {
            _ = bench.Placer.Place(bench.Block, page * 4096L, source, 16 * 4096);
            _ = bench.Placer.PlaceZero(bench.Block, (page + 512) * 4096L, 16 * 4096);
            _ = bench.Placer.Place(bench.Block, page * 4096L, source, 16 * 4096);
        }

        long before = GC.GetAllocatedBytesForCurrentThread();
        for (int page = 1024; page < pages; page += 32)
        {
            _ = bench.Placer.Place(bench.Block, page * 4096L, source, 16 * 4096);
            _ = bench.Placer.PlaceZero(bench.Block, (page + 16) * 4096L, 16 * 4096);
            _ = bench.Placer.Place(bench.Block, page * 4096L, source, 16 * 4096);
        }

        Assert.Equal(before, GC.GetAllocatedBytesForCurrentThread());
        Assert.Equal(0, bench.Block.MissingPages);
        Pages.Free(source);
    });

    [Fact(Timeout = Limit)]
    public async Task AZeroOfPrecopyOverwritesWhatTheHostHadPutThere() => await Task.Run(() =>
    {
        foreach (GuestMemoryKind kind in (GuestMemoryKind[])[GuestMemoryKind.Anonymous, GuestMemoryKind.Memfd])
        {
            using GuestMemory memory = GuestMemory.Allocate(new GuestMemoryOptions { Length = 4 * 4096, Kind = kind });
            using RamBlockRegistry registry = new();
            using PostcopyPlacer placer = new();
            RamBlock block = registry.Add(new RamBlockSpec { Name = "ram", Memory = memory });
            memory.Write(4096, "firmware"u8);

            placer.ZeroPrecopy(block, 0, 4 * 4096);

            byte[] seen = new byte[4 * 4096];
            memory.Read(0, seen);
            Assert.Equal(-1, seen.AsSpan().IndexOfAnyExcept((byte)0));
            Assert.Equal(0, block.MissingPages);
        }
    });

    [Fact(Timeout = Limit)]
    public async Task PrecopyPagesAreWrittenAndLaterOnesRefused() => await Task.Run(() =>
    {
        using PlacerBench bench = new(RawMapping.Anonymous(4));
        nuint source = bench.Source(1, 1);
        RamBlockException refused = Assert.Throws<RamBlockException>(() => bench.Placer.WritePrecopy(bench.Block, 0, source, 4096));
        Assert.Contains("is registered; precopy pages are written before Listen", refused.Message, StringComparison.Ordinal);
        bench.Block.Detach();
        bench.Arena.Uffd.Unregister(bench.Block.Range);
        bench.Placer.WritePrecopy(bench.Block, 4096, source, 4096);
        bench.AssertContent(1, 1);
        Assert.Equal(3, bench.Block.MissingPages);
        Assert.Throws<RamBlockException>(() => bench.Placer.WritePrecopy(bench.Block, 100, source, 4096));
        Assert.Throws<RamBlockException>(() => bench.Placer.ZeroPrecopy(bench.Block, 4 * 4096, 4096));
        Pages.Free(source);
    });
}
