using Postcopy.Uffd.Interop;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Destination;

public sealed class DestinationPipelineTests
{
    private const int Limit = 60_000;

    [Fact(Timeout = Limit)]
    public async Task SixtyFourThreadsOnOnePageMakeOneRequest() => await Task.Run(() =>
    {
        using DestinationBench bench = new();
        FaultingThread[] threads = [.. Enumerable.Range(0, 64).Select(_ => bench.Read(7))];
        Assert.Equal(7 * 4096, bench.Requester.Take().Offset);
        Deadline.Until(() => bench.Destination.Faults.Messages >= 64, "all 64 messages");
        _ = bench.Place(7);
        Assert.All(threads, t => Assert.Equal(DestinationBench.FirstByte(7), (byte)t.Result));
        Assert.Equal(1, bench.Destination.Faults.Requests);
        Assert.Single(bench.Requester.Seen);
    });

    [Fact(Timeout = Limit)]
    public async Task AResumedLinkIsAskedForExactlyWhatIsOpen() => await Task.Run(() =>
    {
        using DestinationBench bench = new();
        FaultingThread[] threads = [.. ((int[])[3, 9, 20]).Select(bench.Read)];
        for (int i = 0; i < 3; i++)
        {
            _ = bench.Requester.Take();
        }

        _ = bench.Place(9);
        bench.Destination.Pause("cut");
        FaultingThread whileDown = bench.Read(40);
        bench.Destination.Prefetch(bench.Block, new PageRange(50 * 4096, 2 * 4096));
        Deadline.Until(() => bench.Block.Requested.Test(40), "the fault to be read");
        Assert.False(bench.Requester.TryTake(out _, 0));

        QueueRequester second = new();
        bench.Destination.Resume(second);
        List<long> asked = [];
        while (asked.Count < 5)
        {
            PageRequest request = second.Take();
            for (long at = request.Offset; at < request.Offset + request.Length; at += 4096)
            {
                asked.Add(at / 4096);
            }
        }

        Assert.Equal([3, 20, 40, 50, 51], asked.Order());
        bench.PlaceAll();
        Assert.All([.. threads, whileDown], t => _ = t.Result);
        Assert.False(second.TryTake(out _, 0));
    });

    [Theory(Timeout = Limit)]
    [InlineData(RequestOutcome.Busy)]
    [InlineData(RequestOutcome.Disconnected)]
    public async Task ARequestThatTheLinkRefusedIsTriedAgain(RequestOutcome refusal) => await Task.Run(() =>
    {
        using DestinationBench bench = new();
        bench.Requester.Answer = refusal;
        FaultingThread reader = bench.Read(5);
        Deadline.Until(() => bench.Block.Requested.Test(5), "the fault to be read");
        bench.Requester.Answer = RequestOutcome.Sent;
        Assert.Equal(5 * 4096, bench.Requester.Take().Offset);
        _ = bench.Place(5);
        Assert.Equal(DestinationBench.FirstByte(5), (byte)reader.Result);
    });

    [Fact(Timeout = Limit)]
    public async Task EnsurePresentAsksAndWaitsForTheWholeRange()
    {
        using DestinationBench bench = new();
        _ = bench.Place(11);
        ValueTask waiting = bench.Destination.EnsurePresentAsync(bench.Block, new PageRange((10 * 4096) + 100, 3 * 4096));
        Assert.Equal((10 * 4096L, 4096L), (bench.Requester.Take() is var r ? r.Offset : 0, r.Length));
        Assert.Equal((12 * 4096L, 2 * 4096L), (bench.Requester.Take() is var s ? s.Offset : 0, s.Length));
        _ = bench.Place(10);
        _ = bench.Place(12);
        Assert.False(waiting.IsCompleted);
        _ = bench.Place(13);
        await waiting.AsTask().WaitAsync(Deadline.Default);
        Assert.True(bench.Destination.EnsurePresentAsync(bench.Block, new PageRange(10 * 4096, 4096)).IsCompletedSuccessfully);
    }

    [Fact(Timeout = Limit)]
    public async Task AWaitEndsWithThePlacementAndNotWithTheNextTick()
    {
        using DestinationBench bench = new();
        long start = TimeProvider.System.GetTimestamp();
        for (int page = 0; page < 40; page++)
        {
            Task waiting = bench.Destination.EnsurePresentAsync(bench.Block, new PageRange(page * 4096L, 4096)).AsTask();
            _ = bench.Requester.Take();
            _ = bench.Place(page);
            await waiting.WaitAsync(Deadline.Default);
        }

        // The control thread looks by itself every 100 ms: forty of them would take two to four seconds.
        TimeSpan took = TimeProvider.System.GetElapsedTime(start);
        Assert.True(took < TimeSpan.FromSeconds(1), $"Forty waits took {took}.");
    }

    [Fact(Timeout = Limit)]
    public async Task AThousandWaitersHoldNoThread()
    {
        using DestinationBench bench = new(pages: 1024);
        Task[] waiting = [.. Enumerable.Range(0, 1024).Select(p => bench.Destination.EnsurePresentAsync(bench.Block, new PageRange(p * 4096L, 4096)).AsTask())];
        Assert.All(waiting, w => Assert.False(w.IsCompleted));
        // A page that came before it was asked for would not be asked for.
        Deadline.Until(() => bench.Requester.Seen.Sum(r => r.Length / 4096) == 1024, "all requests");
        bench.PlaceAll();
        await Task.WhenAll(waiting).WaitAsync(Deadline.Default);
        Assert.Equal(1024, bench.Requester.Seen.Sum(r => r.Length / 4096));
    }

    [Fact(Timeout = Limit)]
    public async Task ACancelledWaitLeavesThePageAskedFor()
    {
        using DestinationBench bench = new();
        using CancellationTokenSource cancel = new();
        Task waiting = bench.Destination.EnsurePresentAsync(bench.Block, new PageRange(0, 4096), cancel.Token).AsTask();
        _ = bench.Requester.Take();
        await cancel.CancelAsync();
        _ = await Assert.ThrowsAnyAsync<OperationCanceledException>(() => waiting);
        FaultingThread reader = bench.Read(0);
        Deadline.Until(() => bench.Destination.Faults.Duplicates == 1, "the fault to be read");
        Assert.False(bench.Requester.TryTake(out _, 0));
        _ = bench.Place(0);
        Assert.Equal(DestinationBench.FirstByte(0), (byte)reader.Result);
    }

    [Fact(Timeout = Limit)]
    public async Task PrefetchNeverBlocksHoweverMuchIsAskedWhileTheLinkIsDown() => await Task.Run(() =>
    {
        using DestinationBench bench = new(pages: 2048);
        bench.Destination.Pause("cut");
        for (int page = 0; page < 2048; page += 2)
        {
            bench.Destination.Prefetch(bench.Block, new PageRange(page * 4096L, 4096));
        }

        QueueRequester second = new();
        bench.Destination.Resume(second);
        Deadline.Until(() => second.Seen.Count >= 1024, "all prefetches");
        Assert.Equal([.. Enumerable.Range(0, 1024).Select(p => p * 8192L)], second.Seen.Select(r => r.Offset).Order());
    });

    [Fact(Timeout = Limit)]
    public async Task AWaitThatFailureOrCloseOvertakesEndsWithTheReason()
    {
        using DestinationBench bench = new();
        Task before = bench.Destination.EnsurePresentAsync(bench.Block, new PageRange(0, 4096)).AsTask();
        Task<CompletionReport> completing = bench.Destination.CompleteAsync();
        ((IFaultObserver)bench.Destination).OnUnservable(bench.Block, 4096, PlaceOutcome.OutOfHugePages);
        PostcopyFailedException failed = await Assert.ThrowsAsync<PostcopyFailedException>(() => before.WaitAsync(Deadline.Default));
        Assert.Contains("pool of huge pages ran dry at offset 0x1000 of RAM block 'ram'", failed.Message, StringComparison.Ordinal);
        _ = await Assert.ThrowsAsync<PostcopyFailedException>(() => completing.WaitAsync(Deadline.Default));
        Assert.Equal(PostcopyState.Failed, bench.Destination.State);
    }

    [Fact(Timeout = Limit)]
    public async Task AStalledPageIsReportedOnce()
    {
        TaskCompletionSource<StallAlarm> told = new(TaskCreationOptions.RunContinuationsAsynchronously);
        int count = 0;
        using DestinationBench bench = new(options: new PostcopyOptions
        {
            StallAlarm = TimeSpan.FromMilliseconds(100),
            OnStall = alarm =>
            {
                _ = Interlocked.Increment(ref count);
                _ = told.TrySetResult(alarm);
                throw new InvalidOperationException("A callback that throws ends nothing.");
            },
        });
        FaultingThread reader = bench.Read(6);
        StallAlarm alarm = await told.Task.WaitAsync(Deadline.Default);
        Assert.Equal((bench.Block, 6 * 4096L), (alarm.Block, alarm.Offset));
        Assert.True(alarm.Age >= TimeSpan.FromMilliseconds(100));

        FaultingThread other = bench.Read(8);
        Deadline.Until(() => Volatile.Read(ref count) == 2, "the second page's alarm");
        bench.PlaceAll();
        _ = (reader.Result, other.Result);
        Assert.Equal(2, Volatile.Read(ref count));
    }

    [Fact(Timeout = Limit)]
    public async Task CompletionIsInOrderAndTheHookComesLast()
    {
        using DestinationBench bench = new(pages: 8);
        bool early = false;
        Task<CompletionReport> completing = bench.Destination.CompleteAsync(report =>
        {
            // Unregistered: a page thrown away now is an ordinary zero page.
            early = bench.Destination.State != PostcopyState.End || bench.Block.Primary is not null || bench.Destination.Completion.IsCompleted;
            _ = Libc.madvise(bench.Mapping.Page(1), 4096, Libc.MADV_DONTNEED);
            early |= FaultingThread.ReadByte(bench.Mapping.Page(1)) != 0 || report.TotalBytes != 8 * 4096;
            throw new TimeoutException("the source is gone");
        });
        _ = bench.Place(0, 7);
        Assert.False(completing.IsCompleted);
        _ = bench.Place(7);
        _ = await Assert.ThrowsAsync<TimeoutException>(() => completing.WaitAsync(Deadline.Default));
        Assert.False(early);

        // The guest is complete all the same.
        CompletionReport report = await bench.Destination.Completion;
        Assert.Equal(8 * 4096, report.Placement.CopiedBytes);
        Assert.Equal(PostcopyState.End, bench.Destination.State);
        bench.AssertContent(7);
        await bench.Destination.CloseAsync(MissingPagePolicy.Fail);
        Assert.Equal(PostcopyState.End, bench.Destination.State);
    }

    [Fact(Timeout = Limit)]
    public async Task ACancelledCompletionChangesNothing()
    {
        using DestinationBench bench = new(pages: 8);
        using CancellationTokenSource cancel = new();
        Task completing = bench.Destination.CompleteAsync(null, cancel.Token);
        await cancel.CancelAsync();
        _ = await Assert.ThrowsAnyAsync<OperationCanceledException>(() => completing);
        Assert.Equal(PostcopyState.Running, bench.Destination.State);
        bench.PlaceAll();
        _ = await bench.Destination.CompleteAsync().WaitAsync(Deadline.Default);
    }

    [Fact(Timeout = Limit)]
    public async Task APageLostBeforeTheEndIsNoticedAndTheEndCanBeTriedAgain()
    {
        using DestinationBench bench = new(pages: 8);
        _ = bench.Place(0, 7);
        // Counted as complete, and yet not: as if a page were discarded between the last placement and the check.
        Assert.False(bench.Block.Received.TestAndSet(7));
        _ = bench.Block.MarkReceived(7, 1);
        Task<CompletionReport> completing = bench.Destination.CompleteAsync();
        Assert.False(completing.IsCompleted);
        bench.Block.Received.TestAndClear(7);
        _ = bench.Block.Received.TestAndClear(3);
        _ = bench.Block.MarkReceived(3, 1);
        PostcopyIncompleteException lost = await Assert.ThrowsAsync<PostcopyIncompleteException>(() => completing.WaitAsync(Deadline.Default));
        Assert.Contains("RAM block 'ram' lost pages while it was completed", lost.Message, StringComparison.Ordinal);
        Assert.Equal(PostcopyState.Running, bench.Destination.State);
        _ = bench.Place(7);
        bench.AssertContent(7);
    }

    [Fact(Timeout = Limit)]
    public async Task CloseWithFailThrowsAndEverythingGoesOn()
    {
        using DestinationBench bench = new(pages: 8);
        _ = bench.Place(0, 3);
        PostcopyIncompleteException refused = await Assert.ThrowsAsync<PostcopyIncompleteException>(async () => await bench.Destination.CloseAsync(MissingPagePolicy.Fail));
        Assert.Equal("The destination is not closed: 5 pages are missing, the first at offset 0x3000 of RAM block 'ram'.", refused.Message);
        FaultingThread reader = bench.Read(5);
        Assert.Equal(5 * 4096, bench.Requester.Take().Offset);
        bench.PlaceAll();
        Assert.Equal(DestinationBench.FirstByte(5), (byte)reader.Result);
        await bench.Destination.CloseAsync(MissingPagePolicy.Fail);
        Assert.Equal(PostcopyState.End, bench.Destination.State);
    }

    [Fact(Timeout = Limit)]
    public async Task TwoThousandBlocksAreListenedToInSeconds() => await Task.Run(() =>
    {
        const int count = 2000;
        using GuestMemory memory = GuestMemory.Allocate(new GuestMemoryOptions { Length = count * 2 * 4096L });
        PostcopyDestination destination = new(new PostcopyOptions { Open = Requires.AnyKind });
        long start = TimeProvider.System.GetTimestamp();
        for (int i = 0; i < count; i++)
        {
            _ = destination.Blocks.Add(new RamBlockSpec { Name = $"block{i}", Memory = memory, MemoryOffset = i * 8192L, UsedLength = 4096 });
        }

        TimeSpan added = TimeProvider.System.GetElapsedTime(start);
        destination.Advise();
        QueueRequester requester = new();
        start = TimeProvider.System.GetTimestamp();
        destination.Listen(requester);
        TimeSpan listened = TimeProvider.System.GetElapsedTime(start);
        nuint source = Pages.Make(1, 4096);
        foreach (int i in (int[])[0, 777, 1999])
        {
            FaultingThread reader = FaultingThread.Read(memory.Address + (nuint)(i * 8192L));
            PageRequest request = requester.Take();
            Assert.Equal($"block{i}", request.Block.Name);
            _ = destination.Placer.Place(request.Block, 0, source, 4096);
            Assert.Equal(DestinationBench.FirstByte(1), (byte)reader.Result);
        }

        foreach (RamBlock block in destination.Blocks.Blocks)
        {
            Assert.True(destination.Placer.Place(block, 0, source, 4096).IsReceived);
        }

        _ = destination.CompleteAsync().WaitAsync(Deadline.Default).GetAwaiter().GetResult();
        destination.CloseAsync(MissingPagePolicy.Fail).AsTask().Wait(Deadline.Default);
        Pages.Free(source);
        Assert.True(added + listened < TimeSpan.FromSeconds(20), $"Adding took {added}, Listen {listened}.");
    });

    [Fact(Timeout = Limit)]
    public async Task TheFaultThreadAllocatesNothing() => await Task.Run(() =>
    {
        const int pages = 4096;
        using DestinationBench bench = new(pages: pages);
        CountingRequester requester = new(bench.Destination.Placer, Pages.Make(1, 4096));
        bench.Destination.Pause("swap");
        bench.Destination.Resume(requester);

        // A touch is one fault, one request and one placement on the fault thread.
        long least = long.MaxValue;
        for (int round = 0; round < 4; round++)
        {
            nuint from = bench.Mapping.Page(round * 1024);
            long before = GC.GetTotalAllocatedBytes(precise: true);
            for (int page = 0; page < 1024; page++)
            {
                _ = FaultingThread.ReadByte(from + (nuint)(page * 4096));
            }

            least = Math.Min(least, GC.GetTotalAllocatedBytes(precise: true) - before);
        }

        Assert.Equal(pages, requester.Count);
        // Other tests' threads allocate at the same time; 1024 faults of one object each would be 24 KiB.
        Assert.True(requester.Allocated == 0, $"The fault thread allocated {requester.Allocated} bytes; the process {least} in its best round.");
    });

    /// <summary>Answers at once, on the fault thread, and watches what that thread allocates between two requests.</summary>
    private sealed class CountingRequester(PostcopyPlacer placer, nuint source) : IPageRequester
    {
        private long _last;

        internal int Count { get; private set; }

        internal long Allocated { get; private set; }

        public RequestOutcome TryRequest(in PageRequest request)
        {
            long now = GC.GetAllocatedBytesForCurrentThread();
            if (++Count > 1500)
            {
                Allocated += now - _last;
            }

            _last = now;
            _ = placer.Place(request.Block, request.Offset, source, request.Length);
            return RequestOutcome.Sent;
        }
    }
}
