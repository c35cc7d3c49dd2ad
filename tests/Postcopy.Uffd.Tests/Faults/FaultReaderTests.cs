using Postcopy.Uffd.Tests.Simulation;

namespace Postcopy.Uffd.Tests.Faults;

public sealed class FaultReaderTests
{
    private static readonly TimeSpan s_soon = TimeSpan.FromMilliseconds(20);

    [Fact]
    public void ManyThreadsOnOnePageAreOneRequest()
    {
        using ReaderBench bench = new();
        for (uint thread = 1; thread <= 64; thread++)
        {
            _ = bench.Touch(7, thread);
        }

        bench.Reader.Turn();
        bench.Reader.Turn();

        Assert.Equal([7], bench.RequestedPages());
        Assert.Equal((64L, 63L, 1L), (bench.Reader.Statistics.Messages, bench.Reader.Statistics.Duplicates, bench.Reader.Statistics.Requests));
    }

    [Fact]
    public void ALinkThatIsBusyGetsEachRequestOnceAndInOrder()
    {
        using ReaderBench bench = new();
        bench.Answer = RequestOutcome.Busy;
        for (int page = 0; page < 20; page++)
        {
            _ = bench.Touch(page * 3, (uint)page + 1);
        }

        bench.Reader.Turn();
        int tries = bench.Tries;
        for (int i = 0; i < 50; i++)
        {
            bench.Reader.Turn();
        }

        Assert.Equal(tries, bench.Tries);
        Assert.InRange(bench.Reader.Patience, 1, 1_000_000);
        bench.Answer = RequestOutcome.Sent;
        bench.TurnAfter(s_soon);
        Assert.Equal([.. Enumerable.Range(0, 20).Select(p => p * 3)], bench.RequestedPages());
        Assert.Equal(-1, bench.Reader.Patience);
    }

    [Fact]
    public void MoreRequestsThanTheQueueHoldsAreAllSentOnce()
    {
        const int pages = 1500;
        using ReaderBench bench = new();
        bench.Answer = RequestOutcome.Busy;
        for (int page = 0; page < pages; page++)
        {
            _ = bench.Touch(page, (uint)page + 1);
        }

        for (int i = 0; i < 4; i++)
        {
            bench.TurnAfter(s_soon);
        }

        bench.Answer = RequestOutcome.Sent;
        for (int i = 0; i < 20; i++)
        {
            bench.TurnAfter(s_soon);
        }

        long[] asked = [.. bench.Requests.SelectMany(r => Enumerable.Range((int)(r.Offset / 4096), (int)(r.Length / 4096))).Select(p => (long)p).Order()];
        Assert.Equal([.. Enumerable.Range(0, pages).Select(p => (long)p)], asked);
    }

    [Fact]
    public void MorePrefetchesThanTheRingHoldsAreAllSentOnceAndNobodyWaits()
    {
        const int pages = 1024;
        using ReaderBench bench = new();
        bench.Reader.SetRequester(null);
        for (int page = 0; page < pages; page += 2)
        {
            Assert.False(bench.Block.Requested.TestAndSet(page));
            bench.Reader.Prefetch(bench.Block, page, 1);
        }

        bench.Reader.Turn();
        Assert.Equal(-1, bench.Reader.Patience);
        bench.Reader.SetRequester(bench);
        for (int i = 0; i < 20; i++)
        {
            bench.TurnAfter(s_soon);
        }

        Assert.Equal([.. Enumerable.Range(0, pages / 2).Select(p => p * 2)], bench.RequestedPages().Order());
    }

    [Fact]
    public void MorePrefetchesThanTheRingHoldsBetweenTwoTurnsAreAllSentOnceWithoutANewLink()
    {
        const int pages = 1024;
        using ReaderBench bench = new();
        for (int page = 0; page < pages; page += 2)
        {
            Assert.False(bench.Block.Requested.TestAndSet(page));
            bench.Reader.Prefetch(bench.Block, page, 1);
        }

        for (int i = 0; i < 20; i++)
        {
            bench.TurnAfter(s_soon);
        }

        Assert.Equal([.. Enumerable.Range(0, pages / 2).Select(p => p * 2)], bench.RequestedPages().Order());
    }

    [Fact]
    public void ThePrefetchRingWithoutALinkChangeSendsRunsAsTheyWereAsked()
    {
        using ReaderBench bench = new();
        for (int page = 10; page < 20; page++)
        {
            _ = bench.Block.Requested.TestAndSet(page);
        }

        bench.Reader.Prefetch(bench.Block, 10, 10);
        Assert.Equal(0, bench.Reader.Patience);
        bench.Reader.Turn();
        PageRequest one = Assert.Single(bench.Requests);
        Assert.Equal((10 * 4096L, 10 * 4096L), (one.Offset, one.Length));
    }

    [Fact]
    public void ANewLinkIsToldExactlyWhatIsOpen()
    {
        using ReaderBench bench = new();
        foreach (int page in (int[])[3, 70, 500])
        {
            _ = bench.Touch(page, (uint)page);
        }

        bench.Reader.Turn();
        Assert.True(bench.Placer.PlaceZero(bench.Block, 70 * 4096, 4096).IsReceived);
        bench.Reader.SetRequester(null);
        _ = bench.Touch(900, 900);
        bench.Reader.Turn();
        bench.Requests.Clear();

        bench.Reader.SetRequester(bench);
        _ = bench.Touch(901, 901);
        bench.Reader.Turn();
        bench.Reader.Turn();

        Assert.Equal([3, 500, 900, 901], bench.RequestedPages().SelectMany(Expand).Order());

        IEnumerable<int> Expand(int page) => Enumerable.Range(page, (int)(bench.Requests.First(r => r.Offset == page * 4096L).Length / 4096));
    }

    [Fact]
    public void ALinkThatSaysDisconnectedIsAskedNowAndThenAndGetsEverything()
    {
        using ReaderBench bench = new();
        _ = bench.Touch(1, 1);
        bench.Reader.Turn();
        bench.Answer = RequestOutcome.Disconnected;
        _ = bench.Touch(5, 2);
        bench.Reader.Turn();
        int tries = bench.Tries;
        for (uint i = 0; i < 30; i++)
        {
            _ = bench.Touch(20 + (int)i, 100 + i);
            bench.Reader.Turn();
        }

        Assert.Equal(tries, bench.Tries);
        Assert.InRange(bench.Reader.Patience, 1, 10_000_000);
        bench.Requests.Clear();
        bench.Answer = RequestOutcome.Sent;
        bench.TurnAfter(s_soon);
        bench.TurnAfter(s_soon);
        Assert.Equal(32, bench.Requests.Sum(r => r.Length / 4096));
        Assert.Contains(bench.Requests, r => r.Offset == 4096);
    }

    [Fact]
    public void ADutyLeftOverFromBeforeADiscardIsNotSentASecondTime()
    {
        using ReaderBench bench = new();
        bench.Answer = RequestOutcome.Busy;
        _ = bench.Block.Requested.TestAndSet(10);
        bench.Reader.Prefetch(bench.Block, 10, 1);
        bench.Reader.Turn();
        Assert.True(bench.Placer.PlaceZero(bench.Block, 10 * 4096, 4096).IsReceived);
        bench.Memory.Zap(10);
        bench.Block.Discard(new PageRange(10 * 4096, 4096));
        bench.Answer = RequestOutcome.Sent;
        _ = bench.Touch(10);
        bench.TurnAfter(s_soon);
        bench.TurnAfter(s_soon);
        Assert.Equal([10], bench.RequestedPages());
    }

    [Fact]
    public void ADiscardMakesWhoeverWaitsInItFaultAnew()
    {
        // Received and thrown away, so its waiter's fault may have been read under the old bits.
        using ReaderBench bench = new();
        _ = bench.Block.MarkReceived(9, 1);
        _ = bench.Block.Requested.TestAndSet(9);
        bench.Kernel.OutOfMemoryCalls = 1;
        FakeVcpu vcpu = bench.Touch(9);
        bench.Reader.Turn();
        Assert.True(vcpu.Waits);
        bench.Block.Discard(new PageRange(9 * 4096, 4096));
        Assert.True(vcpu.IsRunnable);
        Assert.Null(vcpu.Run());
        bench.Reader.Turn();
        Assert.Equal([9], bench.RequestedPages());
    }

    [Fact]
    public void AThrownAwayPageIsGivenBackAsZeros()
    {
        using ReaderBench bench = new();
        _ = bench.Block.MarkReceived(9, 1);
        FakeVcpu vcpu = bench.Touch(9);
        bench.Reader.Turn();
        Assert.Equal(0, vcpu.Run());
        Assert.Empty(bench.Requests);
        Assert.Equal(1, bench.Reader.Statistics.ZeroFilled);
    }

    [Fact]
    public void AFaultThatMustWaitIsParkedOnceAndRetriedByTheClock()
    {
        using ReaderBench bench = new();
        _ = bench.Block.MarkReceived(9, 1);
        bench.Kernel.OutOfMemoryCalls = 5;
        FakeVcpu vcpu = bench.Touch(9);
        bench.Reader.Turn();
        for (int i = 0; i < 1000; i++)
        {
            bench.Kernel.Signal(vcpu);
            bench.Reader.Turn();
        }

        Assert.Equal(1, bench.Kernel.Calls);
        Assert.Equal((1L, 1000L), (bench.Reader.Statistics.Parked, bench.Reader.Statistics.Duplicates));

        // The pause grows: 50, 100, 200, 400 us.
        long waited = 0;
        List<long> pauses = [];
        while (vcpu.Waits)
        {
            long pause = bench.Reader.Patience;
            pauses.Add(pause);
            waited += pause;
            bench.TurnAfter(TimeSpan.FromMicroseconds(pause / 1000.0));
            Assert.True(pauses.Count < 20);
        }

        Assert.Equal([50_000L, 100_000, 200_000, 400_000, 800_000], pauses);
        Assert.Equal(0, vcpu.Run());
    }

    [Fact]
    public void MoreParkedFaultsThanThereIsRoomForAreAllServed()
    {
        const int pages = 1500;
        using ReaderBench bench = new();
        _ = bench.Block.MarkReceived(0, pages);
        bench.Kernel.OutOfMemoryCalls = pages;
        FakeVcpu[] vcpus = [.. Enumerable.Range(0, pages).Select(p => bench.Touch(p, (uint)p + 1))];
        for (int i = 0; i < 100 && !vcpus.All(v => v.IsIdle); i++)
        {
            bench.TurnAfter(s_soon);
            foreach (FakeVcpu vcpu in vcpus.Where(v => v.IsRunnable))
            {
                _ = vcpu.Run();
            }
        }

        Assert.All(vcpus, v => Assert.True(v.IsIdle));
    }

    [Fact]
    public void AStretchThatIsBeingDiscardedParksTheFaultInsteadOfWakingInACircle()
    {
        using ReaderBench bench = new();
        _ = bench.Block.MarkReceived(9, 1);
        FakeVcpu vcpu = bench.Touch(9);
        bench.Block.Claims.AcquireExclusive(0, 1);
        bench.Reader.Turn();
        Assert.True(vcpu.Waits);
        Assert.Equal(0, bench.Kernel.Calls);
        bench.Block.Claims.ReleaseExclusive(0, 1);
        bench.TurnAfter(s_soon);
        Assert.Equal(0, vcpu.Run());
    }

    [Fact]
    public void AnExhaustedPoolIsSaidAloudOnlyAfterTheDeadlineAndTriedOn()
    {
        using ReaderBench bench = new(pages: 4, huge: true);
        _ = bench.Block.MarkReceived(1, 1);
        bench.Memory.Pool = 0;
        FakeVcpu vcpu = bench.Touch(1);
        bench.Reader.Turn();
        bench.TurnAfter(s_soon);
        Assert.Empty(bench.Unservable);
        bench.TurnAfter(TimeSpan.FromMilliseconds(60));
        Assert.Equal([PlaceOutcome.OutOfHugePages], bench.Unservable);
        Assert.True(vcpu.Waits);
        bench.Memory.Pool = 1;
        bench.TurnAfter(s_soon);
        Assert.Equal(0, vcpu.Run());
    }

    [Fact]
    public void EventsOfABatchComeBeforeItsFaults()
    {
        using ReaderBench bench = new(events: true);
        bench.Kernel.StartRemoval(4, 2);
        FakeVcpu vcpu = bench.Touch(5);
        bench.Reader.Turn();
        Assert.Empty(bench.Requests);
        Assert.True(bench.Block.Received.Test(4));
        for (int i = 0; i < 20 && !vcpu.IsIdle; i++)
        {
            bench.TurnAfter(s_soon);
            _ = vcpu.IsRunnable ? vcpu.Run() : null;
        }

        Assert.True(vcpu.IsIdle);
        Assert.Equal(0, bench.Memory.Frames[5]);
    }

    [Fact]
    public void ARemovalEndsTheStallsOfWhoeverWaitedForIt()
    {
        using BlocktimeTracker tracker = new();
        VcpuSlot slot = tracker.AddVcpu(1);
        using ReaderBench bench = new(events: true, tracker: tracker);
        FakeVcpu vcpu = bench.Touch(5);
        bench.Reader.Turn();
        Assert.Equal(1, tracker.OpenFaults);

        bench.Kernel.StartRemoval(4, 2);
        bench.Reader.Turn();

        // It was woken and has not run yet: what it waits for from its next touch on is another page.
        Assert.True(vcpu.IsRunnable);
        Assert.Equal(0, tracker.OpenFaults);
        Assert.Equal(1, tracker.Snapshot().Vcpus[slot.Index].Episodes);
    }

    [Fact(Timeout = 60_000)]
    public async Task NoPlacementFallsBetweenReadingAnEventAndActingOnIt() => await Task.Run(() =>
    {
        // The madvise thread runs on as soon as its event is read, and has thrown the page away before the reader
        // knows of it: a COPY now would put the source's bytes where zeros were promised (hazards H4, H5).
        using ReaderBench bench = new(events: true);
        nuint source = Destination.Pages.Make(1, 4096);
        Task<PlaceResult>? placing = null;
        bench.Kernel.StartRemoval(5, 1);
        bench.Kernel.AfterRead = () =>
        {
            bench.Kernel.AfterRead = null;
            bench.Kernel.RunMadvise();
            bench.Kernel.RunMadvise();
            Assert.Empty(bench.Kernel.Removals);
            placing = Task.Factory.StartNew(() => bench.Placer.Place(bench.Block, 5 * 4096, source, 4096), TaskCreationOptions.LongRunning);
            Assert.False(placing.Wait(TimeSpan.FromMilliseconds(100)), "A placement was let through.");
        };

        bench.Reader.Turn();

        Assert.Equal(PlaceOutcome.AlreadyReceived, placing!.WaitAsync(Infrastructure.Deadline.Default).GetAwaiter().GetResult().Outcome);
        Assert.Null(bench.Memory.Frames[5]);
        Destination.Pages.Free(source);
    });

    [Fact]
    public void AThreadThatWaitsWhereMemoryIsNotRegisteredAnyMoreIsWoken()
    {
        using ReaderBench bench = new();
        _ = bench.Block.MarkReceived(9, 1);
        bench.Kernel.NotRegistered = true;
        FakeVcpu vcpu = bench.Touch(9);
        bench.Reader.Turn();
        Assert.True(vcpu.IsRunnable);
    }

    [Theory(Timeout = 60_000)]
    [InlineData(true)]
    [InlineData(false)]
    public async Task APresentPageWhoseAddressSpaceChangesIsNotTakenForAnExhaustedPool(bool huge) => await Task.Run(() =>
    {
        // COPY says "already present"; before CONTINUE can confirm it, a madvise begins.
        using ReaderBench bench = new(pages: 8, shared: true, huge: huge);
        bench.Memory.Frames[3] = 7;
        bench.Kernel.Interleave = () =>
        {
            if (bench.Kernel.Calls == 1 && bench.Kernel.Removals.Count == 0)
            {
                bench.Kernel.StartRemoval(5, 1);
            }
        };
        Assert.Equal(PlaceOutcome.AddressSpaceChanging, bench.Placer.PlaceZero(bench.Block, 3 * bench.Block.PageSize.Bytes, bench.Block.PageSize.Bytes).Outcome);
        Assert.False(bench.Block.Received.Test(3));
    });

    [Fact]
    public void AnUnmapInAMirrorsProcessLeavesTheBlockAsItIs()
    {
        using ReaderBench bench = new(shared: true, events: true);
        FakeKernel mirror = new(bench.Memory, 0x100000, UffdModes.Missing, new Random(2));
        FaultSource source = new(mirror, -1, null, isPrimary: false);
        bench.Block.AttachMirror(mirror, 0x100000, UffdModes.Missing);
        source.Add(bench.Block, 0x100000);
        bench.Reader.AddSource(source);

        mirror.StartRemoval(0, 100);
        bench.Reader.Turn();

        Assert.Equal(2048, bench.Block.MissingPages);
    }

    [Fact]
    public void AFloodOnOneDescriptorDoesNotKeepRequestsBack()
    {
        using ReaderBench bench = new(batch: 1);
        for (uint thread = 1; thread <= 200; thread++)
        {
            _ = bench.Touch((int)thread, thread);
        }

        bench.Reader.Turn();
        Assert.InRange(bench.Reader.Statistics.Messages, 1, 64);
    }

    [Fact]
    public void AStormOfRepetitionsIsReadSlowly()
    {
        using ReaderBench bench = new();
        FakeVcpu vcpu = bench.Touch(3);
        bench.Reader.Turn();
        long start = TimeProvider.System.GetTimestamp();
        for (int i = 0; i < 1000; i++)
        {
            bench.Kernel.Signal(vcpu);
            bench.Reader.Turn();
        }

        // 256 at full speed, then up to 200 us each: far from 300 000 a second, and far from a stall.
        TimeSpan took = TimeProvider.System.GetElapsedTime(start);
        Assert.True(took > TimeSpan.FromMilliseconds(100), $"1000 repetitions took {took}.");
        Assert.Equal([3], bench.RequestedPages());

        // A fault that is new ends the storm for the others.
        _ = bench.Touch(4, 2);
        bench.Reader.Turn();
        Assert.Equal([3, 4], bench.RequestedPages());
    }

    [Fact]
    public void AFaultOutsideOfEveryBlockIsCounted()
    {
        using ReaderBench bench = new();
        FakeKernel other = new(bench.Memory, bench.Mapping.Address + unchecked((nuint)(1L << 40)), UffdModes.Missing, new Random(1));
        bench.Reader.AddSource(new FaultSource(other, -1, bench.Registry, isPrimary: true));
        FakeVcpu vcpu = other.AddVcpu(5);
        vcpu.Touch(1);
        _ = vcpu.Run();
        bench.Reader.Turn();
        Assert.Equal(1, bench.Reader.Statistics.Unknown);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1025)]
    public void ABatchSizeOutOfRangeIsRefusedAtTheStart(int size)
    {
        ArgumentOutOfRangeException refused = Assert.Throws<ArgumentOutOfRangeException>(
            () => new PostcopyDestination(new PostcopyOptions { FaultReader = new FaultReaderOptions { BatchSize = size } }));
        Assert.Contains("1 to 1024 messages", refused.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void ATurnAllocatesNothing()
    {
        using ReaderBench bench = new();
        FakeVcpu[] vcpus = [.. Enumerable.Range(0, 400).Select(p => bench.Touch(p, (uint)p + 1))];
        bench.Requests.EnsureCapacity(2048);
        bench.Reader.Turn();
        _ = bench.Block.MarkReceived(1000, 1);
        FakeVcpu zero = bench.Touch(1000, 9999);
        bench.Reader.Turn();
        long allocated = long.MaxValue;
        for (int round = 0; round < 3; round++)
        {
            // The first round is the runtime's: stubs of first calls.
            foreach (FakeVcpu vcpu in vcpus)
            {
                bench.Kernel.Signal(vcpu);
            }

            long before = GC.GetAllocatedBytesForCurrentThread();
            bench.Reader.Turn();
            allocated = GC.GetAllocatedBytesForCurrentThread() - before;
        }

        Assert.Equal(0, allocated);
        Assert.Equal(0, zero.Run());
    }
}
