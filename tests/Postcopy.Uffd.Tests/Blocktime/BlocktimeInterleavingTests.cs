#if DEBUG || INTERLEAVING
using static Postcopy.Uffd.Tests.Blocktime.TrackerExtensions;

namespace Postcopy.Uffd.Tests.Blocktime;

/// <summary>Every order of the steps of two or three parties, on the real code.</summary>
public sealed class BlocktimeInterleavingTests
{
    [Fact(Timeout = 60_000)]
    public Task ReaderAndPlacerNeverLoseAWaiter() => Enumerate(
        TestContext.Current.CancellationToken,
        state => Check(state, episodes: state.Present ? 0..1 : 1..1),
        60_000,
        Reader,
        Placer);

    [Fact(Timeout = 60_000)]
    public Task TwoPlacersOfOnePageCloseTheStallOnce() => Enumerate(
        TestContext.Current.CancellationToken,
        state => Check(state, episodes: 1..1),
        4_000,
        state => state.Tracker.End(A, 4096, 30),
        state => state.Tracker.End(A, 1 << 20, 40),
        begun: true);

    [Fact(Timeout = 60_000)]
    public Task PlacerAndLeavingVcpuCloseTheStallOnce() => Enumerate(
        TestContext.Current.CancellationToken,
        state => Check(state, episodes: 1..1),
        4_000,
        state => state.Tracker.End(A, 4096, 30),
        state => state.Tracker.LeaveGuest(state.Slot, 40),
        begun: true);

    [Fact(Timeout = 60_000)]
    public Task FaultReadBeforeTheVcpuLeftIsClosedByOneOfThem() => Enumerate(
        TestContext.Current.CancellationToken,
        state => Check(state, episodes: 1..1),
        4_000,
        state => state.Tracker.Confirm(state.Tracker.Begin(1, A, 10).Ticket),
        state => state.Tracker.LeaveGuest(state.Slot, 40));

    [Fact(Timeout = 60_000)]
    public Task FaultReadBeforeTheEndOfTheMigrationIsClosedByOneOfThem() => Enumerate(
        TestContext.Current.CancellationToken,
        state =>
        {
            state.Tracker.AssertNobodyWaits();
            Assert.Equal(1, state.Tracker.Snapshot(99).Unresolved);
        },
        4_000,
        state => state.Tracker.Confirm(state.Tracker.Begin(1, A, 10).Ticket),
        state => state.Tracker.Abandon(40));

    [Theory]
    [InlineData("end.found")]
    [InlineData("close")]
    public void SlowPlacerOfTheFirstEpisodeCannotCloseALaterOneInTheSameRecord(string stoppedAt)
    {
        State state = new(begun: true);
        BlocktimeTracker tracker = state.Tracker;
        AtYield(stoppedAt, () =>
        {
            // While the slow placer stands there, the page is placed and discarded until its record is in use again.
            for (int i = 1; i <= 8; i++)
            {
                tracker.Place(A, (i * 100) - 50);
                tracker.Fault(1, A, i * 100);
                tracker.Fold();
            }
        });
        tracker.End(A, 4096, 850);
        InterleavingPoint.Install(null);
        Assert.Equal(1, tracker.OpenFaults);
        tracker.Place(A, 900);
        VcpuBlocktime row = tracker.Row(state.Slot, 999);
        Assert.Equal(9, row.Episodes);
        Assert.Equal(40 + (7 * 50) + 100, row.BlocktimeNanoseconds);
        tracker.AssertNobodyWaits();
    }

    [Fact]
    public void RecordOfAnotherThreadIsUsedAgainOnlyWhenItsCloserIsThrough()
    {
        using BlocktimeTracker tracker = new(new BlocktimeOptions { OtherCapacity = 1 });
        tracker.Fault(77, A, 0);
        BeginResult second = default;
        AtYield("other.released", () => second = tracker.Begin(78, B, 5));
        tracker.Place(A, 10);
        InterleavingPoint.Install(null);
        Assert.True(second.Ticket.IsNone);
        tracker.Fault(78, B, 20);
        tracker.Place(B, 30);
        Assert.Equal(2, tracker.Snapshot(99).OtherLatency.Count);
        tracker.AssertNobodyWaits();
    }

    [Theory]
    [InlineData("close", 90)]
    [InlineData("closing", 90)]
    [InlineData("released", 90)]
    public void ReadingInTheMiddleOfAnEndShowsTheStallAsOpen(string stoppedAt, long blocked)
    {
        State state = new(begun: true);
        long seen = -1;
        AtYield(stoppedAt, () => seen = state.Tracker.Snapshot(100).TotalNanoseconds);
        state.Tracker.Place(A, 100);
        InterleavingPoint.Install(null);
        Assert.Equal(blocked, seen);
        Assert.Equal(90, state.Tracker.Total(200));
    }

    [Fact(Timeout = 60_000)]
    public Task FoldBesideReaderAndPlacerLosesNothing() => Enumerate(
        TestContext.Current.CancellationToken,
        state => Check(state, episodes: state.Present ? 0..1 : 1..1),
        10_000,
        Reader,
        Placer,
        third: state =>
        {
            state.Tracker.Fold();
            state.Tracker.Fold();
        });

    // The other parties run inside the hook: the calling thread is the one that was stopped.
    private static void AtYield(string place, Action others) => InterleavingPoint.Install(at =>
    {
        if (at == place)
        {
            InterleavingPoint.Install(null);
            others();
        }
    });

    private static void Reader(State state)
    {
        BlocktimeTicket ticket = state.Tracker.Begin(1, A, 10).Ticket;
        state.Present = Volatile.Read(ref state.Received);
        if (state.Present)
        {
            state.Tracker.Cancel(ticket);
        }
        else
        {
            state.Tracker.Confirm(ticket);
        }
    }

    private static void Placer(State state)
    {
        Volatile.Write(ref state.Received, true);
        state.Tracker.End(A, 4096, 30);
    }

    private static void Check(State state, Range episodes)
    {
        state.Tracker.AssertNobodyWaits();
        BlocktimeReport report = state.Tracker.Snapshot(99);
        Assert.InRange(report.Vcpus[0].Episodes, episodes.Start.Value, episodes.End.Value);
        Assert.Equal(1, report.Vcpus[0].Episodes + report.Cancelled);
        long blocked = report.Vcpus[0].BlocktimeNanoseconds;
        Assert.True(report.Vcpus[0].Episodes == 0 ? blocked == 0 : blocked is 20 or 30, $"blocked {blocked}");
        Assert.Equal(blocked, report.TotalNanoseconds);
        Assert.Equal(0, report.ErrorBoundNanoseconds);
    }

    private static Task Enumerate(
        CancellationToken stop, Action<State> check, int limit, Action<State> first, Action<State> second, bool begun = false, Action<State>? third = null)
    {
        ITestOutputHelper output = TestContext.Current.TestOutputHelper!;
        return Task.Run(
            () =>
            {
                Action<State>[] programs = third is null ? [first, second] : [first, second, third];
                int orders = Interleavings.Enumerate(
                    () => new State(begun),
                    state =>
                    {
                        stop.ThrowIfCancellationRequested();
                        check(state);
                    },
                    limit,
                    programs);
                output.WriteLine($"{orders} orders");
            },
            stop);
    }

    private sealed class State
    {
        internal readonly BlocktimeTracker Tracker = new(new BlocktimeOptions { MaxSlots = 1, TimelineCapacity = 0, RingCapacity = 8 });
        internal readonly VcpuSlot Slot;
        internal bool Received;
        internal bool Present;

        internal State(bool begun)
        {
            Slot = Tracker.AddVcpu(1);
            if (begun)
            {
                Tracker.Fault(1, A, 10);
            }
        }
    }
}
#endif
