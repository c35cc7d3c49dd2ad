using static Postcopy.Uffd.Tests.Blocktime.TrackerExtensions;

namespace Postcopy.Uffd.Tests.Blocktime;

/// <summary>The worked example and the fourteen cases of the definition, through the public API.</summary>
public sealed class BlocktimeCasesTests
{
    [Fact]
    public void WorkedExampleGivesTheFiguresOfTheDefinition()
    {
        using BlocktimeTracker tracker = new();
        for (uint thread = 100; thread < 103; thread++)
        {
            tracker.AddVcpu(thread);
        }

        tracker.Fault(100, A, 0);
        tracker.Fault(101, B, 10);
        tracker.Place(A, 20);
        tracker.Fault(102, C, 30);
        tracker.Fault(100, D, 40);
        tracker.Place(B, 50);
        tracker.Place(C, 60);
        tracker.Place(D, 70);

        BlocktimeReport report = tracker.Snapshot();
        Assert.Equal([50L, 40, 30], report.Vcpus.Select(v => v.BlocktimeNanoseconds));
        Assert.Equal([10L, 10, 10], report.Vcpus.Select(v => v.OverlapNanoseconds));
        Assert.Equal(10, report.TotalNanoseconds);
        Assert.Equal(4, report.VcpuLatency.Count);
        Assert.Equal(30, report.VcpuLatency.MeanNanoseconds);
        Assert.Equal(40, report.VcpuLatency.MaxNanoseconds);
        Assert.Equal([25L, 40, 30], report.Vcpus.Select(v => v.MeanLatencyNanoseconds));
        Assert.Equal([(0, 0L, 20L), (1, 10, 50), (2, 30, 60), (0, 40, 70)], report.Timeline.Select(i => (i.Slot, i.Start, i.End)).Order().OrderBy(i => i.Start));
        Assert.Equal(0, report.ErrorBoundNanoseconds);
        tracker.AssertNobodyWaits();
    }

    [Fact]
    public void Case01OnePlacementEndsTheStallsOfTwoVcpus()
    {
        using BlocktimeTracker tracker = new();
        VcpuSlot v0 = tracker.AddVcpu(1);
        VcpuSlot v1 = tracker.AddVcpu(2);
        tracker.Fault(1, A, 0);
        tracker.Fault(2, A, 5);
        tracker.Place(A, 30);
        Assert.Equal(30, tracker.Blocked(v0, 99));
        Assert.Equal(25, tracker.Blocked(v1, 99));
        Assert.Equal(25, tracker.Total(99));
        tracker.AssertNobodyWaits();
    }

    [Theory]
    [InlineData(2)]
    [InlineData(20)]
    [InlineData(512)]
    [InlineData(262144)]
    public void Case02OnePlacementOfARangeEndsEveryStallInsideIt(int pages)
    {
        using BlocktimeTracker tracker = new();
        VcpuSlot[] inside = [tracker.AddVcpu(1), tracker.AddVcpu(2)];
        VcpuSlot before = tracker.AddVcpu(3);
        VcpuSlot behind = tracker.AddVcpu(4);
        nuint length = (nuint)pages * 4096;
        tracker.Fault(1, B, 0);
        tracker.Fault(2, B + length - 4096, 0);
        tracker.Fault(3, B - 4096, 0);
        tracker.Fault(4, B + length, 0);
        tracker.End(B, length, 40);
        Assert.All(inside, s => Assert.Equal(40, tracker.Blocked(s, 100)));
        Assert.Equal(100, tracker.Blocked(before, 100));
        Assert.Equal(100, tracker.Blocked(behind, 100));
    }

    [Fact]
    public void Case03PageThatWasPlacedBeforeTheMessageWasReadIsNoEpisode()
    {
        using BlocktimeTracker tracker = new();
        VcpuSlot v0 = tracker.AddVcpu(1);
        BeginResult seenByReader = tracker.Begin(1, A, 10);
        Assert.Equal(BeginKind.New, seenByReader.Kind);
        Assert.Equal(0, tracker.Blocked(v0, 50));
        tracker.Cancel(seenByReader.Ticket);
        BeginResult seenByPlacer = tracker.Begin(1, B, 60);
        tracker.Place(B, 55);
        tracker.Cancel(seenByPlacer.Ticket);
        tracker.Confirm(seenByPlacer.Ticket);

        BlocktimeReport report = tracker.Snapshot(99);
        Assert.Equal(0, report.Vcpus[0].BlocktimeNanoseconds);
        Assert.Equal(0, report.VcpuLatency.Count);
        Assert.Equal(2, report.Cancelled);
        Assert.Empty(report.Timeline);
        tracker.AssertNobodyWaits();
    }

    [Fact]
    public void Case04RepeatedMessagesAreOneEpisodeWithTheFirstStart()
    {
        using BlocktimeTracker tracker = new();
        VcpuSlot v0 = tracker.AddVcpu(1);
        tracker.Fault(1, A, 10);
        for (int i = 0; i < 1000; i++)
        {
            BeginResult again = tracker.Begin(1, A + (nuint)i, 11 + i);
            Assert.Equal(BeginKind.Duplicate, again.Kind);
            Assert.True(again.Ticket.IsNone);
        }

        tracker.Place(A, 5000);
        VcpuBlocktime row = tracker.Row(v0, 9999);
        Assert.Equal(4990, row.BlocktimeNanoseconds);
        Assert.Equal(1, row.Episodes);
        Assert.Equal(1000, row.Duplicates);
    }

    [Fact]
    public void Case05NextFaultReadBeforeThePreviousEndWasRecordedLeavesTheGapOut()
    {
        using BlocktimeTracker tracker = new();
        VcpuSlot v0 = tracker.AddVcpu(1);
        tracker.Fault(1, A, 0);
        tracker.Fault(1, B, 30);
        tracker.Place(A, 20);
        tracker.Place(B, 50);
        tracker.Place(A, 60);
        VcpuBlocktime row = tracker.Row(v0, 99);
        Assert.Equal(40, row.BlocktimeNanoseconds);
        Assert.Equal(40, row.OverlapNanoseconds);
        Assert.Equal(2, row.Episodes);
        Assert.Equal(20, row.MeanLatencyNanoseconds);
        Assert.Equal(40, tracker.Total(99));
    }

    [Fact]
    public void Case06VcpuThatMovedOnStaysBlockedAndTheOldPageChangesNothing()
    {
        using BlocktimeTracker tracker = new();
        VcpuSlot v0 = tracker.AddVcpu(1);
        tracker.Fault(1, A, 0);
        tracker.Fault(1, B, 30);
        Assert.Equal(40, tracker.Blocked(v0, 40));
        Assert.True(tracker.TryGetOldestStall(out OpenStall oldest));
        Assert.Equal(B, oldest.Page);
        tracker.Place(B, 50);
        Assert.Equal(50, tracker.Blocked(v0, 60));
        tracker.Place(A, 80);
        VcpuBlocktime row = tracker.Row(v0, 99);
        Assert.Equal(50, row.BlocktimeNanoseconds);
        Assert.Equal(2, row.Episodes);
        Assert.Equal(30, row.MaxLatencyNanoseconds);
        tracker.AssertNobodyWaits();
    }

    [Fact]
    public void Case06VcpuThatComesBackToThePageItLeftHasBeenBlockedAllTheTime()
    {
        using BlocktimeTracker tracker = new();
        VcpuSlot v0 = tracker.AddVcpu(1);
        tracker.Fault(1, A, 0);
        tracker.Fault(1, B, 30);
        tracker.Fault(1, A, 45);
        tracker.Place(B, 46);
        tracker.Place(A, 60);
        VcpuBlocktime row = tracker.Row(v0, 99);
        Assert.Equal(60, row.BlocktimeNanoseconds);
        Assert.Equal(1, row.MovedOn);
        Assert.Equal(0, tracker.Snapshot(99).ErrorBoundNanoseconds);
        tracker.AssertNobodyWaits();
    }

    [Fact]
    public void Case05MessageForAPageWhoseEndIsStillOnItsWayProvesNothing()
    {
        // A was placed at 20, but its placer is slow; the vCPU went on to B; a message for A turns out to be stale.
        using BlocktimeTracker tracker = new();
        VcpuSlot v0 = tracker.AddVcpu(1);
        tracker.Fault(1, A, 0);
        tracker.Fault(1, B, 30);
        tracker.Cancel(tracker.Begin(1, A, 45).Ticket);
        tracker.Place(A, 20);
        tracker.Place(B, 60);
        Assert.Equal(20 + 15, tracker.Blocked(v0, 99));
        tracker.AssertNobodyWaits();
    }

    [Fact]
    public void Case06FifthUnresolvedFaultOfAVcpuSettlesTheFirstAndTheErrorBoundSaysSo()
    {
        using BlocktimeTracker tracker = new();
        VcpuSlot v0 = tracker.AddVcpu(1);
        for (int i = 0; i < 5; i++)
        {
            tracker.Fault(1, A + ((nuint)i * 4096), i * 10);
        }

        tracker.End(A, 5 * 4096, 100);
        BlocktimeReport report = tracker.Snapshot(100);
        Assert.Equal(100, report.Vcpus[v0.Index].BlocktimeNanoseconds);
        Assert.Equal(10, report.ErrorBoundNanoseconds);
        tracker.AssertNobodyWaits();
    }

    [Fact]
    public void Case07ThreadThatIsNoVcpuHasALatencyAndNoBlocktime()
    {
        using BlocktimeTracker tracker = new(new BlocktimeOptions { OtherCapacity = 2 });
        VcpuSlot v0 = tracker.AddVcpu(1);
        Assert.Equal(BeginKind.Other, tracker.Begin(77, A, 0).Kind);
        Assert.Equal(BeginKind.Duplicate, tracker.Begin(77, A, 5).Kind);
        Assert.Equal(BeginKind.Other, tracker.Begin(78, A, 10).Kind);
        BeginResult overflow = tracker.Begin(79, A, 12);
        Assert.Equal(BeginKind.Other, overflow.Kind);
        Assert.True(overflow.Ticket.IsNone);
        tracker.Place(A, 30);
        tracker.Fault(79, B, 40);
        tracker.Place(B, 50);

        BlocktimeReport report = tracker.Snapshot(99);
        Assert.Equal(0, report.Vcpus[v0.Index].BlocktimeNanoseconds);
        Assert.Equal(0, report.TotalNanoseconds);
        Assert.Equal(3, report.OtherLatency.Count);
        Assert.Equal(20, report.OtherLatency.MeanNanoseconds);
        Assert.Equal(30, report.OtherLatency.MaxNanoseconds);
        Assert.Equal(1, report.OtherOverflow);
        Assert.Equal(0, report.VcpuLatency.Count);
        tracker.AssertNobodyWaits();
    }

    [Fact]
    public void Case08ThreadIdZeroIsCountedAsOtherByPage()
    {
        using BlocktimeTracker tracker = new();
        tracker.AddVcpu(1);
        BeginResult first = tracker.Begin(0, A, 0);
        Assert.Equal(BeginKind.Other, first.Kind);
        tracker.Confirm(first.Ticket);
        Assert.Equal(BeginKind.Other, tracker.Begin(0, B, 1).Kind);
        Assert.Equal(BeginKind.Duplicate, tracker.Begin(0, A, 2).Kind);
        BeginResult cancelled = tracker.Begin(uint.MaxValue, C, 3);
        tracker.Cancel(cancelled.Ticket);
        tracker.End(A, 8192, 10);
        Assert.Equal(2, tracker.Snapshot(99).OtherLatency.Count);
        tracker.AssertNobodyWaits();
    }

    [Fact]
    public void Case09VcpuAddedWhileFaultsAreOpenIsAMemberFromThenOn()
    {
        using BlocktimeTracker tracker = new();
        VcpuSlot v0 = tracker.AddVcpu(1);
        tracker.Fault(1, A, 0);
        VcpuSlot v1 = tracker.AddVcpu(2, 40L);
        tracker.Fault(2, B, 50);
        tracker.Place(B, 60);
        tracker.Place(A, 100);
        BlocktimeReport report = tracker.Snapshot(100);
        Assert.Equal(40 + 10, report.TotalNanoseconds);
        Assert.Equal(50, report.Vcpus[v0.Index].OverlapNanoseconds);
        Assert.Equal(10, report.Vcpus[v1.Index].OverlapNanoseconds);
    }

    [Fact]
    public void Case09ReboundVcpuLeavesItsStallAndGoesOnWithTheNewThread()
    {
        using BlocktimeTracker tracker = new();
        VcpuSlot v0 = tracker.AddVcpu(1);
        tracker.Fault(1, A, 0);
        tracker.RebindVcpu(v0, 2, 10);
        Assert.Equal(BeginKind.Other, tracker.Begin(1, C, 12).Kind);
        tracker.Fault(2, A, 20);
        tracker.Place(A, 50);
        Assert.Equal(2u, v0.ThreadId);
        Assert.Equal(40, tracker.Blocked(v0, 99));
        Assert.Equal(1, tracker.Row(v0, 99).LeftGuest);
    }

    [Fact]
    public void Case09RemovedVcpuLeavesItsStallAndTheOthersGoOnWithoutIt()
    {
        using BlocktimeTracker tracker = new();
        VcpuSlot v0 = tracker.AddVcpu(1);
        VcpuSlot v1 = tracker.AddVcpu(2);
        tracker.Fault(1, A, 0);
        tracker.Fault(2, B, 0);
        tracker.RemoveVcpu(v1, 10);
        tracker.Place(A, 30);
        BlocktimeReport report = tracker.Snapshot(99);
        Assert.Equal(30, report.TotalNanoseconds);
        Assert.Equal(10, report.Vcpus[v1.Index].OverlapNanoseconds);
        Assert.Equal(10, report.Vcpus[v1.Index].BlocktimeNanoseconds);
        Assert.True(report.Vcpus[v1.Index].Removed);
        Assert.Equal(BeginKind.Other, tracker.Begin(2, C, 40).Kind);
        Assert.Throws<InvalidOperationException>(() => tracker.SetIdle(v1, true, 50));
        Assert.Equal(30, report.Vcpus[v0.Index].OverlapNanoseconds);
    }

    [Theory]
    [InlineData(IdleSlots.LeftOut, 0)]
    [InlineData(IdleSlots.StandingStill, 10)]
    public void Case10IdleVcpusDoNotKeepTheOthersFromStandingStill(IdleSlots policy, long whenOnlyTheIdleOneWaits)
    {
        using BlocktimeTracker tracker = new(new BlocktimeOptions { IdleSlots = policy });
        VcpuSlot v0 = tracker.AddVcpu(1);
        VcpuSlot v1 = tracker.AddVcpu(2);
        tracker.SetIdle(v1, true, 0);
        tracker.Fault(1, A, 10);
        tracker.Place(A, 30);
        Assert.Equal(20, tracker.Total(30));
        // Nobody waits: whatever is idle, that is no blocktime.
        tracker.SetIdle(v0, true, 30);
        Assert.Equal(20, tracker.Total(50));
        tracker.Fault(2, B, 60);
        tracker.Place(B, 70);
        BlocktimeReport report = tracker.Snapshot(99);
        Assert.Equal(20 + whenOnlyTheIdleOneWaits, report.TotalNanoseconds);
        Assert.Equal(10, report.Vcpus[v1.Index].BlocktimeNanoseconds);
        Assert.Equal(whenOnlyTheIdleOneWaits, report.Vcpus[v1.Index].OverlapNanoseconds);
        tracker.SetIdle(v0, false, 100);
        tracker.SetIdle(v1, false, 100);
        tracker.Fault(1, C, 110);
        Assert.Equal(report.TotalNanoseconds, tracker.Total(200));
    }

    [Fact]
    public void Case10ThreadThatLeftTheGuestWaitsNoLonger()
    {
        using BlocktimeTracker tracker = new();
        VcpuSlot v0 = tracker.AddVcpu(1);
        tracker.Fault(1, A, 0);
        tracker.LeaveGuest(v0, 25);
        Assert.Equal(25, tracker.Blocked(v0, 50));
        // Its message, read before it left, is passed on late.
        BeginResult late = tracker.Begin(1, B, 20);
        tracker.Confirm(late.Ticket);
        Assert.Equal(25, tracker.Blocked(v0, 60));
        tracker.Fault(1, A, 70);
        // A slow LeaveGuest must not end what began after it.
        tracker.LeaveGuest(v0, 25);
        tracker.Place(A, 80);
        Assert.Equal(35, tracker.Blocked(v0, 99));
        tracker.AssertNobodyWaits();
    }

    [Theory]
    [InlineData(1)]
    [InlineData(64)]
    [InlineData(4096)]
    public void Case11AllSlotsWaitForOnePageAndForPagesOfTheirOwn(int slots)
    {
        using BlocktimeTracker tracker = new(new BlocktimeOptions { MaxSlots = slots, RingCapacity = 8 });
        for (uint i = 0; i < slots; i++)
        {
            tracker.AddVcpu(i + 1);
        }

        for (uint i = 0; i < slots; i++)
        {
            tracker.Fault(i + 1, A, i);
        }

        tracker.Place(A, 10_000);
        for (uint i = 0; i < slots; i++)
        {
            tracker.Fault(i + 1, B + (i * 4096), 20_000 + i);
        }

        for (uint i = 0; i < slots; i++)
        {
            tracker.Place(B + (i * 4096), 30_000 + i);
        }

        BlocktimeReport report = tracker.Snapshot(99_999);
        Assert.Equal(10_000 - (slots - 1) + 10_000 - (slots - 1), report.TotalNanoseconds);
        Assert.All(report.Vcpus, v => Assert.Equal(20_000 - v.Slot, v.BlocktimeNanoseconds));
        tracker.AssertNobodyWaits();
    }

    [Fact]
    public void Case12SkewedStampsNeverMakeAnIntervalNegative()
    {
        using BlocktimeTracker tracker = new();
        VcpuSlot v0 = tracker.AddVcpu(1);
        tracker.Fault(1, A, 100);
        tracker.Place(A, 90);
        tracker.Fault(1, B, 80);
        tracker.Place(B, 95);
        tracker.Fault(1, C, long.MaxValue - 10);
        tracker.Place(C, long.MaxValue - 5);
        VcpuBlocktime row = tracker.Row(v0, long.MaxValue - 1);
        Assert.Equal(5, row.BlocktimeNanoseconds);
        Assert.Equal(5, row.OverlapNanoseconds);
        Assert.Equal(3, row.Episodes);
        tracker.Fault(77, D, 100);
        tracker.Place(D, 90);
        LatencySummary other = tracker.Snapshot(long.MaxValue - 1).OtherLatency;
        Assert.Equal((1L, 0L, 0L), (other.Count, other.MeanNanoseconds, other.MaxNanoseconds));
        long before = tracker.Now();
        Assert.True(tracker.Now() >= before);
    }

    [Fact]
    public void Case13FaultOnADiscardedPageIsANewEpisodeThatTheFirstOnesPartiesCannotTouch()
    {
        using BlocktimeTracker tracker = new();
        VcpuSlot v0 = tracker.AddVcpu(1);
        BlocktimeTicket first = tracker.Begin(1, A, 0).Ticket;
        tracker.Place(A, 10);
        BlocktimeTicket second = tracker.Begin(1, A, 20).Ticket;
        Assert.NotEqual(first, second);
        tracker.Cancel(first);
        tracker.Confirm(first);
        Assert.False(tracker.TryGetOldestStall(out _));
        tracker.Confirm(second);
        tracker.Place(A, 35);
        VcpuBlocktime row = tracker.Row(v0, 99);
        Assert.Equal(25, row.BlocktimeNanoseconds);
        Assert.Equal(2, row.Episodes);
    }

    [Fact]
    public void Case14AbandonedMigrationClosesOpenStallsAsUnresolved()
    {
        using BlocktimeTracker tracker = new();
        VcpuSlot v0 = tracker.AddVcpu(1);
        VcpuSlot v1 = tracker.AddVcpu(2);
        tracker.Fault(1, A, 0);
        tracker.Fault(2, B, 10);
        tracker.Fault(99, C, 10);
        tracker.Abandon(60);
        // A message read before that, passed on after it.
        tracker.Begin(2, D, 50);
        tracker.Place(A, 80);
        BlocktimeReport report = tracker.Snapshot(100);
        Assert.Equal(60, report.Vcpus[v0.Index].BlocktimeNanoseconds);
        Assert.Equal(50, report.Vcpus[v1.Index].BlocktimeNanoseconds);
        Assert.Equal(50, report.TotalNanoseconds);
        Assert.Equal(3, report.Unresolved);
        Assert.Equal(1, report.OtherUnresolved);
        Assert.Equal(0, report.VcpuLatency.Count);
        Assert.Empty(report.OpenStalls);
        tracker.AssertNobodyWaits();
    }
}
