using Postcopy.Uffd.Interop;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Destination;

/// <summary>Balloons, unplugged memory and moved blocks, followed by events of the real kernel.</summary>
public sealed class MemoryEventTests
{
    private const int Limit = 60_000;
    private static readonly PostcopyOptions s_follow = new() { FollowMemoryEvents = true };

    [Theory(Timeout = Limit)]
    [InlineData(false, Libc.MADV_DONTNEED)]
    [InlineData(false, TestLibc.MADV_FREE)]
    [InlineData(true, Libc.MADV_REMOVE)]
    public async Task ThrownAwayPagesReadAsZerosAndTheSourcesAreDropped(bool shared, int advice) => await Task.Run(() =>
    {
        Requires.Userfaultfd(UffdFeatures.EventRemove);
        using DestinationBench bench = new(options: s_follow, shared: shared);
        _ = bench.Place(0, 2);                         // 0..1 received
        FaultingThread waiting = bench.Read(2);        // 2 waited for
        Assert.Equal(2 * 4096, bench.Requester.Take().Offset);
        bench.Destination.Prefetch(bench.Block, new PageRange(3 * 4096, 4096));     // 3 requested, 4..5 missing
        _ = bench.Requester.Take();

        Assert.Equal(0, bench.Run(() => Libc.madvise(bench.Mapping.Page(0), 6 * 4096, advice)).Result);

        Assert.Equal(0, waiting.Result);
        Deadline.Until(() => bench.Block.Received.AllSet(0, 6), "the event to be applied");
        Assert.Equal(PlaceOutcome.AlreadyReceived, bench.Place(0, 6).Outcome);
        if (advice != TestLibc.MADV_FREE)
        {
            for (int page = 0; page < 6; page++)
            {
                bench.AssertZero(page);
            }
        }
        else
        {
            // MADV_FREE takes pages when it likes; what was missing is zero, what was there may be either.
            bench.AssertZero(5);
        }

        FaultingThread next = bench.Read(6);
        Assert.Equal(6 * 4096, bench.Requester.Take().Offset);
        bench.PlaceAll();
        _ = next.Result;
        _ = bench.Destination.CompleteAsync().WaitAsync(Deadline.Default).GetAwaiter().GetResult();
        bench.AssertContent(6);
    });

    [Fact(Timeout = Limit)]
    public async Task OurOwnDiscardMeansMissingNotZero() => await Task.Run(() =>
    {
        Requires.Userfaultfd(UffdFeatures.EventRemove);
        using DestinationBench bench = new(options: s_follow);
        for (int round = 0; round < 200; round++)
        {
            bench.PlaceAll();
            Assert.Equal(0, bench.Block.MissingPages);
            bench.Block.Discard(new PageRange(0, 32 * 4096), new PageRange(40 * 4096, 4096));
            Assert.Equal(33, bench.Block.MissingPages);
        }

        FaultingThread reader = bench.Read(40);
        Assert.Equal(40 * 4096, bench.Requester.Take().Offset);
        _ = bench.Place(40);
        Assert.Equal(DestinationBench.FirstByte(40), (byte)reader.Result);
    });

    [Fact(Timeout = Limit)]
    public async Task ABalloonRacingPlacersAndReadersNeverShowsOldBytes() => await Task.Run(() =>
    {
        Requires.Userfaultfd(UffdFeatures.EventRemove);
        const int pages = 512;
        using DestinationBench bench = new(pages: pages, options: s_follow);
        bool[] thrown = new bool[pages];
        Task placer = Task.Factory.StartNew(() =>
        {
            for (int round = 0; round < 3; round++)
            {
                for (int page = 0; page < pages; page++)
                {
                    Assert.True(bench.Place(page).IsReceived);
                }
            }
        }, TaskCreationOptions.LongRunning);
        FaultingThread balloon = bench.Run(() =>
        {
            Random random = new(3);
            for (int i = 0; i < 150; i++)
            {
                int page = random.Next(pages);
                if (Libc.madvise(bench.Mapping.Page(page), 4096, Libc.MADV_DONTNEED) != 0)
                {
                    return -1;
                }

                thrown[page] = true;
                if (FaultingThread.ReadByte(bench.Mapping.Page(page)) != 0)
                {
                    return page + 1;
                }
            }

            return 0;
        });
        placer.WaitAsync(Deadline.Default).GetAwaiter().GetResult();
        Assert.Equal(0, balloon.Result);
        for (int page = 0; page < pages; page++)
        {
            if (thrown[page])
            {
                bench.AssertZero(page);
            }
            else
            {
                bench.AssertContent(page);
            }
        }

        _ = bench.Destination.CompleteAsync().WaitAsync(Deadline.Default).GetAwaiter().GetResult();
    });

    [Fact(Timeout = Limit)]
    public async Task UnmappedMemoryNeedsNothingAndTheEndSurvivesIt() => await Task.Run(() =>
    {
        Requires.Userfaultfd(UffdFeatures.EventUnmap);
        using DestinationBench bench = new(pages: 8, options: s_follow);
        using RawMapping whole = RawMapping.Anonymous(4);
        Assert.Equal(PostcopyState.Running, bench.Destination.State);
        // A second destination whose only block goes away as a whole.
        using DestinationBench gone = new(pages: 4, options: s_follow);
        Assert.Equal(0, gone.Run(() => gone.Mapping.Unmap()).Result);
        Deadline.Until(() => gone.Block.MissingPages == 0, "the event to be applied");
        _ = gone.Destination.CompleteAsync().WaitAsync(Deadline.Default).GetAwaiter().GetResult();
        Assert.Equal(PostcopyState.End, gone.Destination.State);
    });

    [Fact(Timeout = Limit)]
    public async Task AWholeBlockThatMovesIsFollowed() => await Task.Run(() =>
    {
        Requires.Userfaultfd(UffdFeatures.EventRemap);
        using DestinationBench bench = new(pages: 16, options: s_follow);
        _ = bench.Place(1);
        nuint from = bench.Mapping.Address;
        nuint to = Reserve(16);

        Assert.Equal((long)to, bench.Run(() => (long)TestLibc.mremap(from, 16 * 4096, 16 * 4096, TestLibc.MREMAP_MAYMOVE | TestLibc.MREMAP_FIXED, to)).Result);
        bench.Mapping.Moved(to);
        Deadline.Until(() => bench.Block.HostAddress == to, "the event to be applied");

        bench.AssertContent(1);
        FaultingThread reader = bench.Read(5);
        PageRequest request = bench.Requester.Take();
        Assert.Equal((bench.Block, 5 * 4096L), (request.Block, request.Offset));
        Assert.Equal(PlaceOutcome.Placed, bench.Place(5).Outcome);
        Assert.Equal(DestinationBench.FirstByte(5), (byte)reader.Result);
        Assert.True(bench.Destination.Blocks.TryFind(to, out _, out _));
        Assert.False(bench.Destination.Blocks.TryFind(from, out _, out _));
        bench.PlaceAll();
        _ = bench.Destination.CompleteAsync().WaitAsync(Deadline.Default).GetAwaiter().GetResult();
    });

    [Fact(Timeout = Limit)]
    public async Task TwoBlocksThatMoveTogetherAreBothFollowed() => await Task.Run(() =>
    {
        Requires.Userfaultfd(UffdFeatures.EventRemap);
        using DestinationBench bench = new(pages: 16, options: s_follow, listen: false);
        bench.Destination.Blocks.Remove(bench.Block);
        RamBlock low = bench.Destination.Blocks.Add(new RamBlockSpec { Name = "low", HostAddress = bench.Mapping.Address, UsedLength = 8 * 4096 });
        RamBlock high = bench.Destination.Blocks.Add(new RamBlockSpec { Name = "high", HostAddress = bench.Mapping.Page(8), UsedLength = 8 * 4096 });
        bench.Destination.Advise();
        bench.Destination.Listen(bench.Requester);
        nuint from = bench.Mapping.Address;
        nuint to = Reserve(16);
        _ = bench.Run(() => (long)TestLibc.mremap(from, 16 * 4096, 16 * 4096, TestLibc.MREMAP_MAYMOVE | TestLibc.MREMAP_FIXED, to)).Result;
        bench.Mapping.Moved(to);
        Deadline.Until(() => high.HostAddress == to + (8 * 4096) && low.HostAddress == to, "both to be followed");
        Assert.Equal(PlaceOutcome.Placed, bench.Destination.Placer.PlaceZero(low, 0, 8 * 4096).Outcome);
        Assert.Equal(PlaceOutcome.Placed, bench.Destination.Placer.PlaceZero(high, 0, 8 * 4096).Outcome);
    });

    [Fact(Timeout = Limit)]
    public async Task APartThatMovesFailsLoudly() => await Task.Run(() =>
    {
        Requires.Userfaultfd(UffdFeatures.EventRemap);
        // In a process of its own: it leaves a hole in the mapping that somebody else's memory could fill.
        Assert.Contains("The memory layout of RAM block 'ram' changed", ChildProcess.Run(MoveAPart), StringComparison.Ordinal);
    });

    private static void MoveAPart(ChildScenario child)
    {
        DestinationBench bench = new(pages: 16, options: s_follow);
        nuint from = bench.Mapping.Page(4);
        nuint to = Reserve(4);
        _ = bench.Run(() => (long)TestLibc.mremap(from, 4 * 4096, 4 * 4096, TestLibc.MREMAP_MAYMOVE | TestLibc.MREMAP_FIXED, to)).Result;
        try
        {
            _ = bench.Destination.Completion.WaitAsync(Deadline.Default).GetAwaiter().GetResult();
        }
        catch (PostcopyFailedException e)
        {
            child.Say(e.Message);
        }
    }

    [Fact(Timeout = Limit)]
    public async Task WhoeverWaitsAtTheOldAddressOfAMovedBlockIsWoken() => await Task.Run(() =>
    {
        Requires.Userfaultfd(UffdFeatures.EventRemap);
        // Its memory is gone from there: what it gets is SIGSEGV, not sleep without end.
        using ChildProcess child = ChildProcess.Start(MoveUnderAWaiter);
        Assert.Equal("waiting", child.ReadLine());
        Assert.Equal(128 + 11, child.WaitForExit());
    });

    private static void MoveUnderAWaiter(ChildScenario child)
    {
        DestinationBench bench = new(pages: 16, options: s_follow);
        nuint from = bench.Mapping.Address;
        nuint to = Reserve(16);
        FaultingThread waiter = bench.Read(5);
        _ = bench.Requester.Take();
        child.Say("waiting");
        _ = bench.Run(() => (long)TestLibc.mremap(from, 16 * 4096, 16 * 4096, TestLibc.MREMAP_MAYMOVE | TestLibc.MREMAP_FIXED, to)).Result;
        _ = waiter.Wait(Deadline.Default);
    }

    [Fact(Timeout = Limit)]
    public async Task ABalloonThatRacesTheEndComesBack() => await Task.Run(() =>
    {
        Requires.Userfaultfd(UffdFeatures.EventRemove);
        for (int round = 0; round < 10; round++)
        {
            using DestinationBench bench = new(options: s_follow);
            bool stop = false;
            FaultingThread balloon = bench.Run(() =>
            {
                while (!Volatile.Read(ref stop))
                {
                    _ = Libc.madvise(bench.Mapping.Page(0), 4096, Libc.MADV_DONTNEED);
                }

                return 0;
            });
            try
            {
                // Against a balloon without a pause a placement may well give up, and is tried again as a transport would.
                for (int page = 0; page < bench.Block.PageCount; page++)
                {
                    Deadline.Until(() => bench.Place(page).IsReceived, $"page {page} is placed");
                }

                _ = bench.Destination.CompleteAsync().WaitAsync(Deadline.Default).GetAwaiter().GetResult();
            }
            finally
            {
                Volatile.Write(ref stop, true);
            }

            Assert.Equal(0, balloon.Result);
        }
    });

    [Fact(Timeout = Limit)]
    public async Task PlacersGoOnWhileABlockMovesToAndFro() => await Task.Run(() =>
    {
        Requires.Userfaultfd(UffdFeatures.EventRemap);
        const int pages = 2048;
        using DestinationBench bench = new(pages: pages, options: s_follow);
        nuint[] places = [bench.Mapping.Address, Reserve(pages)];
        Task placing = Task.Factory.StartNew(() =>
        {
            for (int page = 0; page < pages; page++)
            {
                PlaceResult result = bench.Place(page);
                Assert.True(result.IsReceived, result.ToString());
            }
        }, TaskCreationOptions.LongRunning);
        FaultingThread mover = bench.Run(() =>
        {
            for (int i = 0; i < 20; i++)
            {
                // The place it left is kept as address space of ours: nobody may come to lie there.
                nuint from = places[i % 2];
                nuint to = places[(i + 1) % 2];
                if (TestLibc.mremap(from, pages * 4096, pages * 4096, TestLibc.MREMAP_MAYMOVE | TestLibc.MREMAP_FIXED, to) != to ||
                    Libc.mmap_anonymous(from, pages * 4096, Libc.PROT_NONE, Libc.MAP_PRIVATE | Libc.MAP_ANONYMOUS | Libc.MAP_FIXED | Libc.MAP_NORESERVE, -1, 0) != from)
                {
                    return -1;
                }

                bench.Mapping.Moved(to);
            }

            return 0;
        });
        placing.WaitAsync(Deadline.Default).GetAwaiter().GetResult();
        Assert.Equal(0, mover.Result);
        Deadline.Until(() => bench.Block.HostAddress == bench.Mapping.Address, "the last event");
        for (int page = 0; page < pages; page++)
        {
            bench.AssertContent(page);
        }
    });

    /// <summary>Address space that mremap takes over.</summary>
    private static nuint Reserve(int pages) =>
        Libc.mmap_anonymous(0, (nuint)pages * 4096, Libc.PROT_NONE, Libc.MAP_PRIVATE | Libc.MAP_ANONYMOUS | Libc.MAP_NORESERVE, -1, 0);

    [Fact(Timeout = Limit)]
    public async Task KeepWaitingGoesOnReadingEventsSoThatTheHostCanUnmap() => await Task.Run(() =>
    {
        Requires.Userfaultfd(UffdFeatures.EventUnmap);
        using DestinationBench bench = new(pages: 8, options: s_follow);
        bench.Destination.CloseAsync(MissingPagePolicy.KeepWaiting).AsTask().Wait(Deadline.Default);
        FaultingThread unmap = bench.Run(() => bench.Mapping.Unmap());
        Assert.Equal(0, unmap.Result);
    });

    [Fact(Timeout = Limit)]
    public async Task AMirrorThatTouchesAThrownAwayPageGetsZerosAndTheEndFreesIt() => await Task.Run(() =>
    {
        Requires.Userfaultfd(UffdFeatures.EventRemove);
        const UffdModes modes = UffdModes.Missing | UffdModes.Minor;
        using DestinationBench bench = new(options: s_follow, shared: true);
        using UffdArena mirror = new(bench.Mapping.Alias(), modes);
        bench.Destination.AttachMirror(mirror.Uffd, bench.Block, mirror.Memory.Address, modes);
        FaultingThread waiting = mirror.Read(2);
        Assert.Equal(2 * 4096, bench.Requester.Take().Offset);

        Assert.Equal(0, bench.Run(() => Libc.madvise(bench.Mapping.Page(0), 4 * 4096, Libc.MADV_REMOVE)).Result);

        Assert.Equal(0, waiting.Result);
        Assert.Equal(0, mirror.Read(3).Result);
        FaultingThread other = mirror.Read(10);
        Assert.Equal(10 * 4096, bench.Requester.Take().Offset);
        bench.PlaceAll();
        Assert.Equal(DestinationBench.FirstByte(10), (byte)other.Result);
        _ = bench.Destination.CompleteAsync().WaitAsync(Deadline.Default).GetAwaiter().GetResult();
        Assert.Equal(DestinationBench.FirstByte(20), (byte)mirror.Read(20).Result);
        Assert.Equal(0, Libc.madvise(mirror.Page(21), 4096, Libc.MADV_DONTNEED));
        Assert.Equal(DestinationBench.FirstByte(21), (byte)mirror.Read(21).Result);
    });
}
