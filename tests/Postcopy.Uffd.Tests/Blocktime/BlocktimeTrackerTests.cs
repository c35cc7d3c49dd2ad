using static Postcopy.Uffd.Tests.Blocktime.TrackerExtensions;

namespace Postcopy.Uffd.Tests.Blocktime;

/// <summary>Rings, readings, cold calls, memory.</summary>
public sealed class BlocktimeTrackerTests
{
    [Fact]
    public void LateRecordsLoseNoTimeAndInventNone()
    {
        using BlocktimeTracker tracker = new();
        tracker.AddVcpu(1);
        tracker.AddVcpu(2);
        tracker.Fault(1, A, 0);
        tracker.Place(A, 20);
        tracker.Fold();
        // Read at 10, recorded after the end at 20 and a fold.
        tracker.Fault(2, B, 10);
        tracker.Fold();
        tracker.Place(B, 15);
        BlocktimeReport report = tracker.Snapshot(99);
        Assert.Equal(5, report.TotalNanoseconds);
        Assert.Equal(0, report.ErrorBoundNanoseconds);
    }

    [Fact]
    public void ReadingsGrowWhileStallsAreOpenAndNeverGoDown()
    {
        using BlocktimeTracker tracker = new();
        VcpuSlot v0 = tracker.AddVcpu(1);
        tracker.Fault(1, A, 0);
        Assert.Equal([10L, 20, 40], new long[] { 10, 20, 40 }.Select(at => tracker.Blocked(v0, at)));
        // The end was stamped at 25, but recorded after the reading at 40.
        tracker.Place(A, 25);
        BlocktimeReport ahead = tracker.Snapshot(41);
        Assert.Equal(40, ahead.TotalNanoseconds);
        Assert.Equal(15, ahead.ReadingExcessNanoseconds);
        Assert.Contains("An earlier reading was ahead; a time is still 15 ns too high.", ahead.ToText(), StringComparison.Ordinal);
        tracker.Fault(1, B, 50);
        tracker.Place(B, 70);
        BlocktimeReport level = tracker.Snapshot(80);
        Assert.Equal(45, level.TotalNanoseconds);
        Assert.Equal(45, level.Vcpus[0].BlocktimeNanoseconds);
        Assert.Equal(0, level.ReadingExcessNanoseconds);
    }

    [Fact]
    public void LongStallOfOneVcpuLetsTheOthersFillTheirRingsWithoutAnError()
    {
        using BlocktimeTracker tracker = new(new BlocktimeOptions { RingCapacity = 8 });
        VcpuSlot v0 = tracker.AddVcpu(1);
        VcpuSlot v1 = tracker.AddVcpu(2);
        tracker.Fault(1, A, 0);
        for (int i = 1; i <= 1000; i++)
        {
            tracker.Fault(2, B, i * 10);
            tracker.Place(B, (i * 10) + 4);
        }

        tracker.Place(A, 20_000);
        BlocktimeReport report = tracker.Snapshot(30_000);
        Assert.Equal(20_000, report.Vcpus[v0.Index].BlocktimeNanoseconds);
        Assert.Equal(4_000, report.Vcpus[v1.Index].BlocktimeNanoseconds);
        Assert.Equal(4_000, report.TotalNanoseconds);
        Assert.Equal(0, report.ErrorBoundNanoseconds);
        Assert.Equal(0, report.Untracked);
    }

    [Fact]
    public void EndThatDisprovesWhatAFullRingAssumedIsInTheErrorBound()
    {
        using BlocktimeTracker tracker = new(new BlocktimeOptions { RingCapacity = 8 });
        VcpuSlot v0 = tracker.AddVcpu(1);
        tracker.AddVcpu(2);
        tracker.Fault(1, A, 0);
        for (int i = 1; i <= 1000; i++)
        {
            tracker.Fault(2, B, i * 10);
            tracker.Place(B, (i * 10) + 4);
        }

        // Woken at 5000, but the placer came to record it only now.
        tracker.Place(A, 5_000);
        BlocktimeReport report = tracker.Snapshot(30_000);
        long truth = 4 * 499;
        Assert.Equal(5_000, report.Vcpus[v0.Index].BlocktimeNanoseconds);
        Assert.True(report.ErrorBoundNanoseconds > 0);
        Assert.InRange(report.TotalNanoseconds, truth, truth + report.ErrorBoundNanoseconds);
        Assert.All(report.Vcpus, v => Assert.True(v.OverlapNanoseconds <= v.BlocktimeNanoseconds));
    }

    [Fact]
    public void RingThatCannotBeFoldedCountsTheEpisodeAndItsPossibleLength()
    {
        using BlocktimeTracker tracker = new(new BlocktimeOptions { RingCapacity = 8 });
        VcpuSlot v0 = tracker.AddVcpu(1);
        tracker.HoldFold(() =>
        {
            for (int i = 0; i < 8; i++)
            {
                tracker.Fault(1, A, i * 10);
                tracker.Place(A, (i * 10) + 5);
            }

            BeginResult noRoom = tracker.Begin(1, B, 80);
            Assert.Equal(BeginKind.New, noRoom.Kind);
            Assert.True(noRoom.Ticket.IsNone);
            tracker.Confirm(noRoom.Ticket);
            tracker.Cancel(noRoom.Ticket);
            tracker.Place(B, 90);
        });
        Assert.Equal(20, tracker.Snapshot(100).ErrorBoundNanoseconds);
        tracker.Fault(1, A, 95);
        tracker.Place(A, 96);
        BlocktimeReport report = tracker.Snapshot(200);
        Assert.Equal(41, report.Vcpus[v0.Index].BlocktimeNanoseconds);
        Assert.Equal(1, report.Untracked);
        Assert.Equal(15, report.ErrorBoundNanoseconds);
        tracker.AssertNobodyWaits();
    }

    [Fact]
    public void OldestStallNamesSlotPageAndStart()
    {
        using BlocktimeTracker tracker = new();
        VcpuSlot v0 = tracker.AddVcpu(1);
        VcpuSlot v1 = tracker.AddVcpu(2);
        Assert.False(tracker.TryGetOldestStall(out _));
        tracker.Begin(1, A, 5);
        Assert.False(tracker.TryGetOldestStall(out _));
        tracker.Fault(2, B, 10);
        tracker.Fault(77, C, 20);
        Assert.True(tracker.TryGetOldestStall(out OpenStall stall));
        Assert.Equal(new OpenStall(v1.Index, 2, B, 10), stall);
        tracker.Place(B, 30);
        Assert.True(tracker.TryGetOldestStall(out stall));
        Assert.Equal(new OpenStall(-1, 77, C, 20), stall);
        Assert.Equal(2, tracker.OpenFaults);
        Assert.Equal(0, tracker.Blocked(v0, 50));
    }

    [Fact]
    public void BlocktimeIsSplitByTheStateOfTheLink()
    {
        using BlocktimeTracker tracker = new();
        VcpuSlot v0 = tracker.AddVcpu(1);
        tracker.Fault(1, A, 0);
        tracker.SetLink(false, 10);
        Assert.Equal(30, tracker.Row(v0, 40).LinkDownNanoseconds);
        tracker.SetLink(true, 300);
        tracker.Place(A, 320);
        BlocktimeReport report = tracker.Snapshot(400);
        Assert.Equal((30L, 290L), (report.TotalLinkUpNanoseconds, report.TotalLinkDownNanoseconds));
        Assert.Equal((30L, 290L), (report.Vcpus[0].LinkUpNanoseconds, report.Vcpus[0].LinkDownNanoseconds));
    }

    [Fact]
    public void HotCallsAllocateNothingOverAMillionCalls()
    {
        using BlocktimeTracker tracker = new(new BlocktimeOptions { MaxSlots = 4 });
        tracker.AddVcpu(1);
        VcpuSlot v1 = tracker.AddVcpu(2);
        long before = 0;
        for (int i = -2000; i < 250_000; i++)
        {
            if (i == 0)
            {
                before = GC.GetAllocatedBytesForCurrentThread();
            }

            long at = tracker.Now();
            nuint page = A + ((nuint)(uint)(i & 1023) * 4096);
            tracker.Confirm(tracker.Begin(1, page, at, at - 1).Ticket);
            tracker.Begin(1, page, at);
            tracker.Cancel(tracker.Begin(2, page + 4096, at).Ticket);
            tracker.Begin(2, page + 8192, at);
            tracker.LeaveGuest(v1, at);
            tracker.Begin(3, page, at);
            tracker.End(page, 4096, at + 5, at);
            tracker.End(page, 1 << 21, at + 6);
            tracker.NoteReader(at);
            tracker.TryGetOldestStall(out _);
        }

        Assert.Equal(0, GC.GetAllocatedBytesForCurrentThread() - before);
        tracker.AssertNobodyWaits();
    }

    [Fact]
    public void ManyControlEventsWithoutAFaultDoNotPileUp()
    {
        using BlocktimeTracker tracker = new();
        VcpuSlot v0 = tracker.AddVcpu(1);
        tracker.Fault(1, A, 0);
        tracker.Place(A, 10);
        for (long i = 1; i < 50_000; i++)
        {
            tracker.SetIdle(v0, i % 2 == 1, i * 10_000_000);
        }

        long at = 50_000L * 10_000_000;
        tracker.Fault(1, A, at);
        tracker.Place(A, at + 100);
        BlocktimeReport report = tracker.Snapshot(at + 500);
        Assert.Equal(110 - 100, report.TotalNanoseconds);
        Assert.Equal(110, report.Vcpus[0].BlocktimeNanoseconds);
        Assert.Equal(0, report.ErrorBoundNanoseconds);
        Assert.True(tracker.ControlEventsPending < 5000);
    }

    [Fact]
    public void ColdCallsRefuseWhatMakesNoSenseByName()
    {
        using BlocktimeTracker tracker = new(new BlocktimeOptions { MaxSlots = 2 });
        using BlocktimeTracker stranger = new();
        VcpuSlot v0 = tracker.AddVcpu(1);
        Assert.Throws<ArgumentOutOfRangeException>(() => tracker.AddVcpu(0));
        Assert.Contains("already runs vCPU slot 0", Assert.Throws<InvalidOperationException>(() => tracker.AddVcpu(1)).Message);
        tracker.AddVcpu(2);
        Assert.Contains("MaxSlots", Assert.Throws<InvalidOperationException>(() => tracker.AddVcpu(3)).Message);
        Assert.Throws<InvalidOperationException>(() => tracker.RebindVcpu(v0, 2));
        Assert.Throws<ArgumentException>(() => stranger.SetIdle(v0, true));
        Assert.Throws<ArgumentNullException>(() => tracker.RemoveVcpu(null!));
        tracker.RemoveVcpu(v0);
        Assert.Throws<InvalidOperationException>(() => tracker.RemoveVcpu(v0));
        tracker.Dispose();
        Assert.Throws<ObjectDisposedException>(() => tracker.SetLink(true, 0));
        Assert.Equal(BeginKind.Other, tracker.Begin(1, A, 0).Kind);
        tracker.End(A, 4096, 1);
        Assert.Equal(2, tracker.Snapshot(10).Vcpus.Count);
    }

    [Theory]
    [InlineData(0, 256, 4096)]
    [InlineData(4097, 256, 4096)]
    [InlineData(1, 100, 4096)]
    [InlineData(1, 4, 4096)]
    [InlineData(1, 131072, 4096)]
    [InlineData(1, 256, 5000)]
    [InlineData(1, 256, 1024)]
    public void OptionsOutOfRangeAreRefused(int maxSlots, int ring, int pageSize) =>
        Assert.Throws<ArgumentException>(() => new BlocktimeTracker(new BlocktimeOptions { MaxSlots = maxSlots, RingCapacity = ring, PageSize = (nuint)pageSize }));

    [Fact]
    public void ThreadsWhoseNumbersFallTogetherAreToldApart()
    {
        // More threads than the table's first half: every run of neighbours wraps around its end somewhere.
        const uint Count = 500;
        using BlocktimeTracker tracker = new(new BlocktimeOptions { MaxSlots = (int)Count });
        VcpuSlot[] slots = [.. Enumerable.Range(0, (int)Count).Select(i => tracker.AddVcpu(1 + ((uint)i * 4096)))];
        for (uint i = 0; i < Count; i++)
        {
            BeginResult result = tracker.Begin(1 + (i * 4096), (nuint)(i + 1) << 12, 10);
            Assert.Equal(BeginKind.New, result.Kind);
            tracker.Confirm(result.Ticket);
            Assert.Equal(BeginKind.Other, tracker.Begin(2 + (i * 4096), (nuint)(i + 1) << 32, 10).Kind);
        }

        tracker.End(0, (nuint)(Count + 1) << 12, 20);
        Assert.All(tracker.Snapshot(30).Vcpus, v => Assert.Equal((1, 10, slots[v.Slot].ThreadId), (v.Episodes, v.BlocktimeNanoseconds, v.ThreadId)));
    }

    [Fact]
    public void HugePagesAreOneWaitWhateverTheirOffset()
    {
        const int huge = 2 << 20;
        using BlocktimeTracker tracker = new(new BlocktimeOptions { PageSize = huge });
        VcpuSlot v0 = tracker.AddVcpu(1);
        tracker.Fault(1, A + 0x5000, 0);
        Assert.Equal(BeginKind.Duplicate, tracker.Begin(1, A + 0x9000, 1).Kind);
        tracker.End(A, huge, 10);
        Assert.Equal(10, tracker.Blocked(v0, 50));
        tracker.AssertNobodyWaits();
    }

    [Fact]
    public void StormOnOnePageOverflowsItsBucketAndNobodyIsForgotten()
    {
        using BlocktimeTracker tracker = new(new BlocktimeOptions { MaxSlots = 64 });
        for (uint i = 1; i <= 64; i++)
        {
            tracker.AddVcpu(i);
            tracker.Fault(i, A, 0);
        }

        for (uint i = 1; i <= 100; i++)
        {
            tracker.Fault(1000 + i, A, 0);
            Assert.Equal(BeginKind.Duplicate, tracker.Begin(1000 + i, A, 1).Kind);
        }

        tracker.Place(A, 10);
        tracker.AssertNobodyWaits();
        Assert.Equal(10, tracker.Total(20));
        Assert.Equal(100, tracker.Snapshot(20).OtherLatency.Count);
    }

    [Fact]
    public void ThreadIdsThatFallTogetherKeepTheirOwnStalls()
    {
        // Ids at random: dozens of them begin at the same place of the table.
        const int Vcpus = 500;
        Random random = new(1);
        uint[] ids = [.. Enumerable.Range(0, 4 * Vcpus).Select(_ => (uint)random.Next(1, 4_000_000)).Distinct().Take(Vcpus)];
        using BlocktimeTracker tracker = new(new BlocktimeOptions { MaxSlots = Vcpus });
        VcpuSlot[] slots = [.. ids.Select(id => tracker.AddVcpu(id, 0))];
        for (int i = 0; i < Vcpus; i++)
        {
            tracker.Fault(ids[i], A, 0);
            tracker.Place(A, i + 1);
        }

        BlocktimeReport report = tracker.Snapshot(Vcpus);
        Assert.All(slots, slot => Assert.Equal((1L, slot.Index + 1L), (report.Vcpus[slot.Index].Episodes, report.Vcpus[slot.Index].BlocktimeNanoseconds)));
        Assert.Equal(0, report.OtherLatency.Count);
    }

    [Fact]
    public void ADelayThatTheHostDoesNotKnowIsNotCounted()
    {
        using BlocktimeTracker tracker = new();
        _ = tracker.AddVcpu(1);
        tracker.Fault(1, A, 100);
        tracker.Place(A, 200);
        Assert.Equal((default, default), (tracker.Snapshot(300).ReaderDelay, tracker.Snapshot(300).StampDelay));

        tracker.Confirm(tracker.Begin(1, A, 1000, wokeAt: 900).Ticket);
        tracker.End(A, 4096, 2000, calledAt: 1930);
        Assert.Equal((new DelaySummary(1, 100, 100), new DelaySummary(1, 70, 70)), (tracker.Snapshot(3000).ReaderDelay, tracker.Snapshot(3000).StampDelay));
    }

    [Fact]
    public void ClockOfAnotherFrequencyIsScaledToNanoseconds()
    {
        using BlocktimeTracker tracker = new(new BlocktimeOptions { TimeProvider = new TenMegahertz() });
        Assert.Equal(123_400, tracker.Now());
    }

    private sealed class TenMegahertz : TimeProvider
    {
        public override long TimestampFrequency => 10_000_000;

        public override long GetTimestamp() => 1234;
    }
}
