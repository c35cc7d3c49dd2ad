using Postcopy.Uffd.Interop;
using Postcopy.Uffd.Tests.Destination;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Placement;

/// <summary>A fault that asks for its whole stretch (<see cref="StretchPlacement.WholeOnFault"/>), on real memory.</summary>
public sealed class WholeStretchTests
{
    private const int Limit = 60_000;
    private const int PerStretch = 512;
    private const long Bytes = PostcopyPlacer.StretchBytes;

    [Fact(Timeout = Limit)]
    public async Task AFaultAsksForItsStretchAndGetsOneHugePage() => await Task.Run(async () =>
    {
        await using Host host = new(stretches: 2);
        FaultingThread first = host.Read(700);
        AssertStretch(host.Requester.Take(), 1);
        FaultingThread second = host.Read(900);
        using (StagingWindow window = host.Destination.Placer.CreateWindow())
        {
            host.Stream(window, PerStretch, 300);

            // Staged: not placed, and not asked for.
            FaultingThread third = host.Read(520);
            host.Stream(window, PerStretch + 300, 211);
            Deadline.Until(() => host.Destination.Faults.Messages == 3, "three faults are read");
            Assert.False(first.IsDone || second.IsDone || third.IsDone);
            Assert.Equal(2L * PerStretch, host.Block.MissingPages);

            host.Stream(window, (2 * PerStretch) - 1, 1);
            Assert.Equal((host.FirstByte(700), host.FirstByte(900), host.FirstByte(520)), (first.Result, second.Result, third.Result));
        }

        Assert.False(host.Requester.TryTake(out PageRequest more, 0), $"{more} was asked for as well.");
        PlacementStatistics placed = host.Destination.Placer.Statistics;
        Assert.Equal((1L, 1L, 0L, 0L), (placed.StretchesBegun, placed.StretchesMoved + placed.StretchesSplit, placed.StretchesDisturbed, placed.StagedPagesPlacedOnFault));
        Assert.Equal(1 - placed.StretchesSplit, host.IsHuge(1) ? 1 : 0);
        host.AssertContent(PerStretch, 2 * PerStretch);
        Assert.Empty(host.Destination.Blocktime!.Snapshot().OpenStalls);
    });

    [Fact(Timeout = Limit)]
    public async Task WhatHasComeIsPlacedWhenTheChannelHasNothingMore() => await Task.Run(async () =>
    {
        await using Host host = new(stretches: 2);
        FaultingThread early = host.Read(10);
        AssertStretch(host.Requester.Take(), 0);
        FaultingThread late = host.Read(400);
        using StagingWindow window = host.Destination.Placer.CreateWindow();
        host.Stream(window, 0, 300);
        Assert.False(early.IsDone);

        Assert.True(window.Flush().IsReceived);

        Assert.Equal(host.FirstByte(10), early.Result);
        Assert.False(late.IsDone);

        // Its rest is no stretch any more, and comes in runs all the same: nobody can tell who of them is waited for.
        long before = host.Destination.Placer.Statistics.Operations;
        host.StreamAtOnce(window, 300, PerStretch - 300);
        Assert.Equal(host.FirstByte(400), late.Result);
        Assert.InRange(host.Destination.Placer.Statistics.Operations - before, 1, 20);
        host.AssertContent(0, PerStretch);
        Assert.False(host.Requester.TryTake(out _, 0));
    });

    [Fact(Timeout = Limit)]
    public async Task WhatHasComeIsPlacedWhenTheChannelIsSilentInTheMiddle() => await Task.Run(async () =>
    {
        await using Host host = new(stretches: 1, patience: 20);
        FaultingThread asked = host.Read(10);
        AssertStretch(host.Requester.Take(), 0);
        using StagingWindow window = host.Destination.Placer.CreateWindow();
        host.Stream(window, 0, 300);

        // Its thread waits for the rest of a record, and flushes nothing.
        FaultingThread again = host.Read(20);
        Assert.Equal((host.FirstByte(10), host.FirstByte(20)), (asked.Result, again.Result));

        // Counted after the ioctl that wakes.
        Assert.True(SpinWait.SpinUntil(() => host.Destination.Placer.Statistics.StagedPagesPlacedOnFault >= 2, TimeSpan.FromSeconds(10)));

        host.Stream(window, 300, PerStretch - 300);
        Assert.True(window.Flush().IsReceived);
        host.AssertContent(0, PerStretch);
    });

    [Fact(Timeout = Limit)]
    public async Task TheSecondWhoWaitsIsLookedAfterToo() => await Task.Run(async () =>
    {
        await using Host host = new(stretches: 1, patience: 20);
        FaultingThread first = host.Read(400);
        AssertStretch(host.Requester.Take(), 0);
        FaultingThread second = host.Read(10);
        using StagingWindow window = host.Destination.Placer.CreateWindow();

        host.Stream(window, 0, 300);

        Assert.Equal(host.FirstByte(10), second.Result);
        Assert.False(first.IsDone);
    });

    [Fact(Timeout = Limit)]
    public async Task AStretchThatTheSourceLeftIsAskedForAndGoesOnToFill() => await Task.Run(async () =>
    {
        await using Host host = new(stretches: 3);
        using StagingWindow window = host.Destination.Placer.CreateWindow();
        host.Stream(window, 0, 300);
        FaultingThread thread = host.Read((2 * PerStretch) + 7);
        AssertStretch(host.Requester.Take(), 2);

        host.Stream(window, 2 * PerStretch, PerStretch);

        // What is staged of it is not asked for, however much that is.
        PageRequest rest = host.Requester.Take();
        Assert.Equal((300 * 4096L, (PerStretch - 300) * 4096L), (rest.Offset, rest.Length));
        Assert.Equal(host.FirstByte((2 * PerStretch) + 7), thread.Result);
        Assert.False(host.Block.Received.AnySet(0, PerStretch));
        Assert.Equal((true, 0), (window.IsFilling, window.Count));

        host.Stream(window, 300, PerStretch - 300);
        PlacementStatistics placed = host.Destination.Placer.Statistics;
        Assert.Equal((2L, 2L), (placed.StretchesBegun, placed.StretchesMoved + placed.StretchesSplit));
        host.AssertContent(0, PerStretch);
        host.AssertContent(2 * PerStretch, 3 * PerStretch);
        Assert.False(host.Requester.TryTake(out _, 0));
    });

    [Fact(Timeout = Limit)]
    public async Task AStretchThatTheSourceLeftEndsWhereAnswersComeOnAnotherChannel() => await Task.Run(async () =>
    {
        await using Host host = new(stretches: 2);
        using StagingWindow window = host.Destination.Placer.CreateWindow();
        using StagingWindow urgent = host.Destination.Placer.CreateWindow();
        host.Stream(window, 0, 300);

        host.Stream(window, PerStretch, 1);

        Assert.True(host.Block.Received.AllSet(0, 300));
        Assert.False(host.Requester.TryTake(out _, 50));
    });

    [Fact(Timeout = Limit)]
    public async Task AStretchOfWhichAnotherChannelBroughtAPageIsNotWaitedFor() => await Task.Run(async () =>
    {
        await using Host host = new(stretches: 1);
        using StagingWindow window = host.Destination.Placer.CreateWindow();
        host.Stream(window, 0, 300);
        FaultingThread asked = host.Read(400);
        PageRequest rest = host.Requester.Take();
        Assert.Equal((300 * 4096L, (PerStretch - 300) * 4096L), (rest.Offset, rest.Length));
        FaultingThread staged = host.Read(10);

        host.Place(400);

        // No more of the stream comes, and nobody flushes.
        Assert.Equal((host.FirstByte(400), host.FirstByte(10)), (asked.Result, staged.Result));
        host.Stream(window, 300, 1);
        Assert.True(host.Block.Received.AllSet(0, 301));
        host.AssertContent(0, 301);
    });

    [Fact(Timeout = Limit)]
    public async Task WhoWaitedBeforeTheStretchWasAskedForIsLookedAfter() => await Task.Run(async () =>
    {
        await using Host host = new(stretches: 1, patience: 20);
        host.Destination.Prefetch(host.Block, new PageRange(5 * 4096, 4096));
        Assert.Equal(4096, host.Requester.Take().Length);
        FaultingThread thread = host.Read(400);
        Assert.Equal(4096, host.Requester.Take().Length);
        host.Destination.Prefetch(host.Block, new PageRange(0, Bytes));
        _ = host.Requester.Take();
        using StagingWindow window = host.Destination.Placer.CreateWindow();

        // Wanted as a whole by now, so it is gathered; and then the channel is silent.
        host.Stream(window, 0, 450);

        Assert.Equal(host.FirstByte(400), thread.Result);
    });

    [Fact(Timeout = Limit)]
    public async Task WhereMemoryEventsAreFollowedFaultsAskForPages() => await Task.Run(async () =>
    {
        await using Host host = new(stretches: 1, events: true);
        FaultingThread thread = host.Read(10);
        Assert.Equal(4096, host.Requester.Take().Length);
        host.Place(10);
        Assert.Equal(host.FirstByte(10), thread.Result);
    });

    [Theory]
    [InlineData(-1)]
    [InlineData(60_001)]
    public void APatienceOutOfItsRangeIsRefused(int milliseconds) =>
        Assert.Throws<ArgumentOutOfRangeException>(() => new PostcopyPlacer(new PlacerOptions { StretchPatience = TimeSpan.FromMilliseconds(milliseconds) }));

    [Theory(Timeout = Limit)]
    [InlineData(true)]
    [InlineData(false)]
    public async Task AStretchOfWhichSomethingIsThereOrAskedForIsAskedForPageByPage(bool there) => await Task.Run(async () =>
    {
        await using Host host = new(stretches: 2);
        if (there)
        {
            host.Place(5);
        }
        else
        {
            host.Destination.Prefetch(host.Block, new PageRange(5 * 4096, 4096));
            Assert.Equal(4096, host.Requester.Take().Length);
        }

        FaultingThread thread = host.Read(6);

        PageRequest request = host.Requester.Take();
        Assert.Equal((6 * 4096L, 4096L), (request.Offset, request.Length));
        host.Place(6);
        Assert.Equal(host.FirstByte(6), thread.Result);
    });

    [Fact(Timeout = Limit)]
    public async Task TheEndOfABlockThatIsNoStretchIsAskedForPageByPage() => await Task.Run(async () =>
    {
        await using Host host = new(stretches: 1, more: 20);
        FaultingThread thread = host.Read(PerStretch + 3);
        PageRequest request = host.Requester.Take();
        Assert.Equal(((PerStretch + 3) * 4096L, 4096L), (request.Offset, request.Length));
        host.Place(PerStretch + 3);
        Assert.Equal(host.FirstByte(PerStretch + 3), thread.Result);
    });

    [Fact(Timeout = Limit)]
    public async Task ANewLinkIsAskedForWhatIsOpenOfIt() => await Task.Run(async () =>
    {
        await using Host host = new(stretches: 1);
        FaultingThread thread = host.Read(10);
        AssertStretch(host.Requester.Take(), 0);
        using StagingWindow window = host.Destination.Placer.CreateWindow();
        host.Stream(window, 0, 5);
        Assert.True(window.Flush().IsReceived);
        host.Destination.Pause("test");
        QueueRequester next = new();
        host.Destination.Resume(next);

        PageRequest request = next.Take();
        Assert.Equal((5 * 4096L, (PerStretch - 5) * 4096L), (request.Offset, request.Length));
        host.StreamAtOnce(window, 5, PerStretch - 5);
        Assert.Equal(host.FirstByte(10), thread.Result);
        host.AssertContent(0, PerStretch);
    });

    [Fact(Timeout = Limit)]
    public async Task ALinkThatIsBusyIsAskedLater() => await Task.Run(async () =>
    {
        await using Host host = new(stretches: 1);
        host.Requester.Answer = RequestOutcome.Busy;
        FaultingThread thread = host.Read(10);
        Deadline.Until(() => host.Destination.Faults.RequesterBusy > 1, "the link refuses");
        host.Requester.Answer = RequestOutcome.Sent;

        AssertStretch(host.Requester.Take(), 0);

        Assert.False(host.Requester.TryTake(out _, 50));
        host.PlaceAll();
        Assert.Equal(host.FirstByte(10), thread.Result);
    });

    [Fact(Timeout = Limit)]
    public async Task ZerosOfAStretchThatWasAskedForArePlacedTogether() => await Task.Run(async () =>
    {
        await using Host host = new(stretches: 2);
        FaultingThread thread = host.Read(PerStretch + 10);
        AssertStretch(host.Requester.Take(), 1);
        using StagingWindow window = host.Destination.Placer.CreateWindow();

        window.Add(host.Block, Bytes, 0, PerStretch);
        Assert.True(window.Flush().IsReceived);

        Assert.Equal(0, thread.Result);
        PlacementStatistics placed = host.Destination.Placer.Statistics;
        Assert.Equal(PerStretch, placed.ZeroPages);

        // The fault thread may have found its page first: then the rest is in two pieces.
        Assert.InRange(placed.Operations, 1, 3);
    });

    private static void AssertStretch(PageRequest request, int stretch) =>
        Assert.Equal((stretch * Bytes, Bytes), (request.Offset, request.Length));

    /// <summary>A destination whose guest waits for whole stretches; what is open at the end is placed.</summary>
    private sealed class Host : IAsyncDisposable
    {
        private readonly GuestMemory _memory;
        private readonly nuint _page = NativeZeroMemory.Map(4096);
        private readonly List<FaultingThread> _threads = [];

        internal Host(int stretches, int more = 0, int patience = Limit, bool events = false)
        {
            Requires.HugePageMoves();
            _memory = GuestMemory.Allocate(new GuestMemoryOptions { Length = (stretches * Bytes) + (more * 4096L) });
            Destination = new PostcopyDestination(new PostcopyOptions
            {
                Open = Requires.AnyKind,
                Blocktime = new BlocktimeOptions(),
                FollowMemoryEvents = events,

                // It would wake who was forgotten.
                StuckFaultCheck = Timeout.InfiniteTimeSpan,
                Placer = new PlacerOptions { Stretches = StretchPlacement.WholeOnFault, StretchPatience = TimeSpan.FromMilliseconds(patience) },
            });
            Block = Destination.Blocks.Add(new RamBlockSpec { Name = "ram", Memory = _memory });
            Destination.Advise();
            Destination.Listen(Requester);
            Destination.Run();
        }

        internal PostcopyDestination Destination { get; }

        internal RamBlock Block { get; }

        internal QueueRequester Requester { get; } = new();

        internal long FirstByte(int page) => Pages.Expected(page, 4096)[0];

        internal bool IsHuge(int stretch) => PageTables.IsHuge(_memory.Address + (nuint)(stretch * Bytes), (nuint)Bytes);

        internal FaultingThread Read(int page)
        {
            long before = Destination.Faults.Messages;
            FaultingThread thread = FaultingThread.Read(Block.HostAddress + (nuint)(page * 4096L));
            _threads.Add(thread);
            Deadline.Until(() => Destination.Faults.Messages > before, "the fault is read");
            return thread;
        }

        internal void Place(int page)
        {
            StretchBench.Fill(_page, page);
            Assert.True(Destination.Placer.Place(Block, page * 4096L, _page, 4096).IsReceived);
        }

        internal void PlaceAll()
        {
            for (int page = 0; page < Block.PageCount; page++)
            {
                Place(page);
            }
        }

        /// <summary>As a channel does that receives page by page.</summary>
        internal void Stream(StagingWindow window, int page, int count)
        {
            for (int i = page; i < page + count; i++)
            {
                StretchBench.Fill(_page, i);
                window.Add(Block, i * 4096L, _page);
                Assert.True(window.FlushPages().IsReceived);
            }
        }

        /// <summary>As a channel does that has received all of them.</summary>
        internal void StreamAtOnce(StagingWindow window, int page, int count)
        {
            nuint source = NativeZeroMemory.Map((nuint)(count * 4096));
            for (int i = 0; i < count; i++)
            {
                StretchBench.Fill(source + (nuint)(i * 4096), page + i);
            }

            window.Add(Block, page * 4096L, source, count);
            Assert.True(window.Flush().IsReceived);
            NativeZeroMemory.Unmap(source, (nuint)(count * 4096));
        }

        internal void AssertContent(int page, int end)
        {
            byte[] seen = new byte[4096];
            for (int i = page; i < end; i++)
            {
                Block.Read(i * 4096L, seen);
                Assert.True(seen.AsSpan().SequenceEqual(Pages.Expected(i, 4096)), $"Page {i} is wrong.");
            }
        }

        public async ValueTask DisposeAsync()
        {
            _ = Destination.Placer.PlaceZero(Block, 0, Block.UsedLength);
            Assert.True(_threads.TrueForAll(t => t.Wait(Deadline.Default)), "A thread still waits for its page.");
            await Destination.CloseAsync(MissingPagePolicy.Fail);
            _memory.Dispose();
            NativeZeroMemory.Unmap(_page, 4096);
        }
    }
}
