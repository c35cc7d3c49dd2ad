#if DEBUG || INTERLEAVING
using System.Globalization;
using Postcopy.Uffd.Tests.Blocktime;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Simulation;

/// <summary>
/// Orders of the steps of the real fault reader, placer, staging, claims and bitmaps. POSTCOPY_ORDERS sets how many of
/// each test at most, POSTCOPY_PREEMPTIONS how many switches each may have.
/// </summary>
public sealed class ProtocolInterleavingTests
{
    private const int Limit = 600_000;

    [Fact(Timeout = Limit)]
    public Task TwoVcpusOfOnePageAreServedByTwoPlacersAndTheirStallsEndOnce() => Enumerate(
        pages: 4,
        host =>
        {
            host.Fault(1, 0);
            host.Fault(2, 0);
        },
        host =>
        {
            host.Settle(answer: true);
            Assert.InRange(host.Tracker.Snapshot().VcpuLatency.Count, 0, 2);
        },
        programs: [host => host.Reader.Turn(), host => host.PlaceUrgent(0), host => host.PlaceUrgent(0)]);

    [Fact(Timeout = Limit)]
    public Task WhoComesWhileHisPageIsPlacedIsSeenByOneOfTheTwo() => Enumerate(
        pages: 4,
        host => host.Fault(1, 0),
        host => host.Settle(answer: true),
        programs: [host => host.Reader.Turn(), host => host.PlaceUrgent(0)]);

    [Fact(Timeout = Limit)]
    public Task AwaitedPagesOfAWindowArePlacedOnceWithTheirOwnContent() => Enumerate(
        pages: 4,
        host =>
        {
            host.Fault(1, 0);
            host.Fault(2, 1);
        },
        host => host.Settle(answer: true),
        programs: [
            host => host.Reader.Turn(),
            host =>
            {
                using StagingWindow window = host.Placer.CreateWindow(stretches: false);
                host.Stage(window, 0);
                Assert.True(window.Flush().IsReceived);

                // The next page comes into the same buffer.
                host.Stage(window, 1);
                Assert.True(window.Flush().IsReceived);
            },
        ]);

    [Fact(Timeout = Limit)]
    public Task AFaultBetweenRunsOfZerosIsGivenNone() => Enumerate(
        pages: 8,
        host =>
        {
            host.MayBeZero = page => page < 6;
            host.Window = host.Placer.CreateWindow(stretches: false, capacity: 1);
            host.Window.Add(host.Block, 4 * PageSize.Host.Bytes, 0, 2);
            host.Fault(1, 6);
        },
        host =>
        {
            host.Settle(answer: true);
            host.Window!.Dispose();
        },
        programs: [
            host => host.Reader.Turn(),
            host =>
            {
                Assert.True(host.Window!.Flush().IsReceived);

                // The second run lies where the first was in the window: the first one's start and its length have page 6.
                host.Window.Add(host.Block, 0, 0, 3);
                Assert.True(host.Window.Flush().IsReceived);
            },
        ]);

    [Fact(Timeout = Limit)]
    public Task AwaitedZerosAreNotAskedForOnceTheyAreInSight() => Enumerate(
        pages: 4,
        host =>
        {
            host.MayBeZero = _ => true;
            StagingWindow window = host.Placer.CreateWindow(stretches: false);
            window.Add(host.Block, 0, 0, 3);
            host.Window = window;
            host.Fault(1, 0);
            host.Fault(2, 2);
        },
        host =>
        {
            host.Settle(answer: false);
            Assert.Empty(host.Asked);
            Assert.True(host.IsServed(1) && host.IsServed(2));
            host.Window!.Dispose();
        },
        programs: [host => host.Reader.Turn(), host => Assert.True(host.Window!.Flush().IsReceived)]);

    [Fact(Timeout = Limit)]
    public async Task AnAwaitedPageOfAFillingStretchWaitsForNoOther()
    {
        Requires.HugePageMoves();
        await EnumerateStretches(
            (host, window) =>
            {
                host.Stage(window, 0);
                host.Fault(1, 1);
            },
            (host, window) =>
            {
                // The channel has nothing more at hand, and the stretch is neither full nor ended.
                Assert.True(window.FlushPages().IsReceived);
                host.Settle(answer: false);
                Assert.True(host.IsServed(1), "The thread waits for a page that is staged.");
                _ = window.Flush();
                host.Settle(answer: true);
            },
            [(host, _) => host.Reader.Turn(), (host, window) => host.Stage(window, 1)]);
    }

    [Fact(Timeout = Limit)]
    public async Task ZerosThatGoFromTheirRunIntoAStretchArePlacedOnce()
    {
        Requires.HugePageMoves();
        await Enumerate(
            2 * FillingStretch.Pages,
            host =>
            {
                host.MayBeZero = page => page == 0;
                host.Window = host.Placer.CreateWindow();
                host.Window.Add(host.Block, 0, 0);
                host.Fault(1, 0);
            },
            host =>
            {
                _ = host.Window!.Flush();
                host.Settle(answer: true);
                Assert.Equal(0, host.Placer.Statistics.AlreadyReceivedPages);
                Assert.Equal((0, InterleavedHost.ContentOf(1)), (host.FrameOf(0), host.FrameOf(1)));
                Assert.Empty(host.Asked);
                host.Window.Dispose();
            },
            programs: [
                host => host.Reader.Turn(),
                host =>
                {
                    host.Stage(host.Window!, 1);
                    Assert.True(host.Window!.FlushPages().IsReceived);
                },
            ]);
    }

    [Fact(Timeout = Limit)]
    public async Task AFaultOnAStretchThatEndsIsNotServedFromTheNextOne()
    {
        Requires.HugePageMoves();
        await EnumerateStretches(
            (host, window) =>
            {
                // Of the first stretch one page is here, and a thread touches another one.
                host.Stage(window, 0);
                host.Fault(1, 1);
            },
            (host, window) =>
            {
                _ = window.Flush();
                host.Settle(answer: true);
            },
            [
                (host, _) => host.Reader.Turn(),
                (host, window) =>
                {
                    // The source goes on with the next stretches; the pages of the third lie in the same staging.
                    host.Stage(window, FillingStretch.Pages);
                    Assert.True(window.FlushPages().IsReceived);
                    host.Stage(window, 2 * FillingStretch.Pages);
                    host.Stage(window, (2 * FillingStretch.Pages) + 1);
                },
            ],
            stretches: 3);
    }

    [Fact(Timeout = Limit)]
    public async Task AFullStretchIsMovedOrCopiedAndErasesNothing()
    {
        Requires.HugePageMoves();
        await EnumerateStretches(
            (host, window) =>
            {
                host.StageAllButTheLast(window);

                host.Fault(1, 5);
            },
            (host, window) =>
            {
                _ = window.Flush();
                host.Settle(answer: true);
                Assert.Equal(0, host.Kernel.Erased);
                Assert.Equal(FillingStretch.Pages, host.Block.PageCount - host.Block.MissingPages);
                Assert.Equal(ContentOf5And7, (host.FrameOf(5), host.FrameOf(7)));
            },
            [
                (host, _) => host.Reader.Turn(),
                (host, window) =>
                {
                    window.Add(host.Block, (FillingStretch.Pages - 1) * PageSize.Host.Bytes, 0);
                    Assert.True(window.FlushPages().IsReceived);
                },
                (host, _) => host.PlaceUrgent(7),
            ]);
    }

    [Fact(Timeout = Limit)]
    public async Task AStretchThatIsAskedForWhileItFillsIsAskedForOnce()
    {
        Requires.HugePageMoves();
        await EnumerateStretches(
            (host, window) =>
            {
                host.Stage(window, 0);
                host.Fault(1, 1);
                host.Fault(2, 0);
            },
            (host, window) =>
            {
                Assert.True(window.FlushPages().IsReceived);
                host.Settle(answer: false);
                Assert.Equal(0, host.Kernel.Erased);
                _ = window.Flush();
                Assert.True(host.Block.Received.Test(1));
                host.Settle(answer: true);
                Assert.True(host.IsServed(1) && host.IsServed(2));
            },
            [(host, _) => host.Reader.Turn(), (host, window) => host.Stage(window, 1)],
            whole: true);
    }

    [Fact(Timeout = Limit)]
    public async Task AStretchThatWasAskedForIsMovedOrCopiedAndItsWaitersRun()
    {
        Requires.HugePageMoves();
        await EnumerateStretches(
            (host, window) =>
            {
                host.Fault(1, 5);
                host.Reader.Turn();
                Assert.Equal(FillingStretch.Pages, host.Asked.Count);
                host.StageAllButTheLast(window);

                host.Fault(2, 7);
            },
            (host, window) =>
            {
                Assert.True(window.FlushPages().IsReceived);
                host.Settle(answer: false);
                Assert.True(host.IsServed(1) && host.IsServed(2));
                Assert.Equal((0L, (long)FillingStretch.Pages), (host.Kernel.Erased, host.Block.PageCount - host.Block.MissingPages));
                Assert.Equal(ContentOf5And7, (host.FrameOf(5), host.FrameOf(7)));
                host.Settle(answer: true);
            },
            [
                (host, _) => host.Reader.Turn(),
                (host, window) =>
                {
                    window.Add(host.Block, (FillingStretch.Pages - 1) * PageSize.Host.Bytes, 0);
                    Assert.True(window.FlushPages().IsReceived);
                },
            ],
            whole: true);
    }

    [Fact(Timeout = Limit)]
    public async Task APageThatIsDiscardedAsItsStretchIsPlacedIsAskedForInItsNextLife()
    {
        Requires.HugePageMoves();
        await EnumerateAll(
            2 * FillingStretch.Pages,
            whole: true,
            host =>
            {
                host.MostAsked = 2;
                host.Window = host.Placer.CreateWindow();
                host.Fault(1, 7);
                host.Reader.Turn();
                host.StageAllButTheLast(host.Window);
            },
            host =>
            {
                Assert.True(host.Window!.Flush().IsReceived);
                host.Settle(answer: false);
                Assert.True(host.IsServed(3) || host.Asked[5] == 2, "The thread waits for a page that nobody was asked for.");
                host.Settle(answer: true);
                host.Window!.Dispose();
            },
            onPoint: (host, place) =>
            {
                if (place == "discard.throw")
                {
                    host.Zap(5);
                }
            },
            [
                host =>
                {
                    host.Window!.Add(host.Block, (FillingStretch.Pages - 1) * PageSize.Host.Bytes, 0);
                    Assert.True(host.Window.FlushPages().IsReceived);
                },
                host => host.Block.Discard(new PageRange(5 * PageSize.Host.Bytes, PageSize.Host.Bytes)),
                host =>
                {
                    host.Fault(3, 5);
                    host.Reader.Turn();
                },
            ]);
    }

    [Fact(Timeout = Limit)]
    public Task ADiscardNeverErasesAPageThatCountsAsReceived() => Enumerate(
        pages: 4,
        host =>
        {
            host.MostAsked = 2;
            _ = host.PlaceUrgent(0);
            _ = host.Block.Requested.TestAndSet(0);
        },
        host =>
        {
            if (!host.Block.Received.Test(0))
            {
                host.Fault(3, 0);
            }

            host.Settle(answer: true);
        },
        onPoint: (host, place) =>
        {
            if (place == "discard.throw")
            {
                host.Zap(0);
            }
        },
        programs: [
            host => host.Block.Discard(new PageRange(0, PageSize.Host.Bytes)),
            host => host.PlaceUrgent(0),
            host =>
            {
                host.Fault(1, 0);
                host.Reader.Turn();
            },
        ]);

    [Fact(Timeout = Limit)]
    public Task AFaultBesideADiscardIsAskedForInThePagesNextLife() => Enumerate(
        pages: 4,
        host => host.Fault(1, 0),
        host => host.Settle(answer: true),
        onPoint: (host, place) =>
        {
            if (place == "discard.throw")
            {
                host.Zap(0);
            }
        },
        programs: [
            host => host.Reader.Turn(),
            host =>
            {
                host.MostAsked = 2;
                _ = host.PlaceUrgent(0);
                host.Block.Discard(new PageRange(0, PageSize.Host.Bytes));
            },
        ]);

    private static (long?, long?) ContentOf5And7 => (InterleavedHost.ContentOf(5), InterleavedHost.ContentOf(7));

    private static Task EnumerateStretches(
        Action<InterleavedHost, StagingWindow> prepare, Action<InterleavedHost, StagingWindow> check, Action<InterleavedHost, StagingWindow>[] programs, int stretches = 2, bool whole = false)
    {
        StagingWindow? window = null;
        return EnumerateAll(
            stretches * FillingStretch.Pages,
            whole,
            host =>
            {
                window = host.Placer.CreateWindow();
                prepare(host, window);
            },
            host =>
            {
                check(host, window!);
                Assert.NotEqual(0, host.Placer.Statistics.StretchesBegun);
                window!.Dispose();
            },
            onPoint: null,
            [.. programs.Select<Action<InterleavedHost, StagingWindow>, Action<InterleavedHost>>(p => host => p(host, window!))]);
    }

    private static Task Enumerate(
        int pages, Action<InterleavedHost> prepare, Action<InterleavedHost> check, Action<InterleavedHost, string>? onPoint = null, params Action<InterleavedHost>[] programs) =>
        EnumerateAll(pages, whole: false, prepare, check, onPoint, programs);

    private static Task EnumerateAll(
        int pages, bool whole, Action<InterleavedHost> prepare, Action<InterleavedHost> check, Action<InterleavedHost, string>? onPoint, Action<InterleavedHost>[] programs)
    {
        ITestOutputHelper output = TestContext.Current.TestOutputHelper!;
        CancellationToken stop = TestContext.Current.CancellationToken;
        return Task.Run(
            () =>
            {
                using RawMapping mapping = RawMapping.AlignedAnonymous(pages);
                InterleavedHost Build()
                {
                    InterleavedHost host = new(mapping, pages, stretches: pages > FillingStretch.Pages, whole);
                    prepare(host);
                    return host;
                }

                // Fewer preemptions first: what is cut by the limit are the rare ones.
                // A request for a whole stretch has hundreds of steps, and each order takes as many times longer.
                int most = Number("POSTCOPY_ORDERS", whole ? 400 : 3000);
                int preemptions = Number("POSTCOPY_PREEMPTIONS", 2);
                int orders = 0;
                for (int bound = 0; bound <= preemptions && orders < most; bound++)
                {
                    int tried = Interleavings.Enumerate(
                        Build,
                        host =>
                        {
                            stop.ThrowIfCancellationRequested();
                            check(host);
                            host.Dispose();
                        },
                        most - orders,
                        bound,
                        onPoint,
                        programs);
                    orders += tried;
                    output.WriteLine($"{tried} orders of at most {bound} preemptions{(orders < most ? ", all there are" : string.Empty)}");
                }
            },
            stop);
    }

    private static int Number(string variable, int otherwise) =>
        int.TryParse(Environment.GetEnvironmentVariable(variable), CultureInfo.InvariantCulture, out int n) ? n : otherwise;
}
#endif
