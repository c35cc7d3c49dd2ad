namespace Postcopy.Uffd.Tests.Blocktime;

internal static class TrackerExtensions
{
    internal static readonly nuint A = unchecked((nuint)0x7000_0000_0000);
    internal static readonly nuint B = unchecked((nuint)0x7000_0000_1000);
    internal static readonly nuint C = unchecked((nuint)0x7000_0000_2000);
    internal static readonly nuint D = unchecked((nuint)0x7000_0000_3000);

    internal static CancellationToken Stop => TestContext.Current.CancellationToken;

    /// <summary>A fault on a page that is missing: begin, look again, confirm.</summary>
    internal static BlocktimeTicket Fault(this BlocktimeTracker tracker, uint threadId, nuint page, long at)
    {
        BeginResult result = tracker.Begin(threadId, page, at);
        Assert.NotEqual(BeginKind.Duplicate, result.Kind);
        tracker.Confirm(result.Ticket);
        return result.Ticket;
    }

    internal static void Place(this BlocktimeTracker tracker, nuint page, long at) => tracker.End(page, 4096, at);

    internal static VcpuBlocktime Row(this BlocktimeTracker tracker, VcpuSlot slot, long at) => tracker.Snapshot(at).Vcpus[slot.Index];

    internal static long Blocked(this BlocktimeTracker tracker, VcpuSlot slot, long at) => tracker.Row(slot, at).BlocktimeNanoseconds;

    internal static long Total(this BlocktimeTracker tracker, long at) => tracker.Snapshot(at).TotalNanoseconds;

    internal static void AssertNobodyWaits(this BlocktimeTracker tracker)
    {
        Assert.Equal(0, tracker.OpenFaults);
        Assert.Equal(0, tracker.WaitersInFilter);
    }
}
