using Postcopy.Uffd.Tests.Simulation;

namespace Postcopy.Uffd.Tests.Faults;

/// <summary>Faults that cannot be served this moment, and what happens to their pages meanwhile.</summary>
public sealed class ParkedFaultTests
{
    private static readonly TimeSpan s_soon = TimeSpan.FromMilliseconds(20);

    [Fact]
    public void AParkedFaultWhosePageIsRemovedStallsAgainFromItsNextTouchOn()
    {
        using BlocktimeTracker tracker = new();
        VcpuSlot slot = tracker.AddVcpu(1);
        using ReaderBench bench = new(events: true, tracker: tracker);
        _ = bench.Block.MarkReceived(9, 1);
        bench.Kernel.OutOfMemoryCalls = 1;
        FakeVcpu vcpu = bench.Touch(9);
        bench.Reader.Turn();
        Assert.Equal((1L, 1L), (bench.Reader.Statistics.Parked, tracker.OpenFaults));

        // The event ends the stall, and wakes the thread; it touches its page again before the parked fault is tried.
        bench.Kernel.StartRemoval(9, 1);
        bench.Reader.Turn();
        Assert.Equal((0L, true), (tracker.OpenFaults, vcpu.IsRunnable));
        Assert.Null(vcpu.Run());
        bench.Reader.Turn();
        Assert.Equal(1, tracker.OpenFaults);

        for (int i = 0; i < 20 && vcpu.Waits; i++)
        {
            bench.Kernel.RunMadvise();
            bench.TurnAfter(s_soon);
        }

        Assert.Equal(0, vcpu.Run());
        Assert.Equal((0L, 2L), (tracker.OpenFaults, tracker.Snapshot().Vcpus[slot.Index].Episodes));
    }
}
