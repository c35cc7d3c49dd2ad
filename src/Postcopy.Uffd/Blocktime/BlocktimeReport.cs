using System.Collections.ObjectModel;

namespace Postcopy.Uffd;

/// <summary>A reading of a <see cref="BlocktimeTracker"/>: fixed figures, as text and as QEMU's JSON.</summary>
/// <remarks>
/// Every time here is an estimate: the kernel tells when a fault was read, not when it happened, so a stall starts late by the reader's
/// delay and ends late by the stamp's. Both delays stand beside the figures where the host gave them.
/// </remarks>
public sealed partial class BlocktimeReport
{
    internal BlocktimeReport(long at, VcpuBlocktime[] vcpus)
    {
        At = at;
        Vcpus = new ReadOnlyCollection<VcpuBlocktime>(vcpus);
        foreach (VcpuBlocktime vcpu in vcpus)
        {
            Unresolved += vcpu.Unresolved;
        }
    }

    /// <summary>The moment of the reading, on the tracker's clock.</summary>
    public long At { get; }

    /// <summary>One row per slot, removed ones included, in the order of adding.</summary>
    public IReadOnlyList<VcpuBlocktime> Vcpus { get; }

    /// <summary>How long all member vCPUs were blocked at once.</summary>
    public long TotalNanoseconds { get; internal init; }

    /// <summary>The part of it with the link up.</summary>
    public long TotalLinkUpNanoseconds => TotalNanoseconds - TotalLinkDownNanoseconds;

    /// <summary>The part of it with the link down.</summary>
    public long TotalLinkDownNanoseconds { get; internal init; }

    /// <summary>
    /// By how much the times can be wrong because records came late after a ring had been full, or did not fit: 0 means that
    /// they follow exactly from the stamps.
    /// </summary>
    public long ErrorBoundNanoseconds { get; internal init; }

    /// <summary>
    /// By how much a time shown here is ahead of the truth, because an earlier reading had counted a stall up to its "now" and the
    /// end recorded afterwards was stamped earlier. Readings never go down; this shrinks as the truth catches up.
    /// </summary>
    public long ReadingExcessNanoseconds { get; internal init; }

    /// <summary>Latency of all fault episodes, of vCPUs and of other threads.</summary>
    public required LatencySummary Latency { get; init; }

    /// <summary>Latency of the vCPUs' episodes.</summary>
    public required LatencySummary VcpuLatency { get; init; }

    /// <summary>Latency of the episodes of threads that are no vCPUs; these touch no blocktime.</summary>
    public required LatencySummary OtherLatency { get; init; }

    /// <summary>How many stalls of vCPUs were open when the migration was abandoned.</summary>
    public long Unresolved { get; }

    /// <summary>How many faults of other threads were open when the migration was abandoned.</summary>
    public long OtherUnresolved { get; internal init; }

    /// <summary>How many faults of other threads were not measured because the table of them was full.</summary>
    public long OtherOverflow { get; internal init; }

    /// <summary>How many messages repeated an open fault.</summary>
    public long Duplicates { get; internal init; }

    /// <summary>How many messages came for a page that had been received already: no stall.</summary>
    public long Cancelled { get; internal init; }

    /// <summary>How many episodes of vCPUs were not measured because a ring was full and could not be folded; their time is in the error bound.</summary>
    public long Untracked { get; internal init; }

    /// <summary>The confirmed stalls that are open, oldest first.</summary>
    public required IReadOnlyList<OpenStall> OpenStalls { get; init; }

    /// <summary>From the reader's wake-up to the read, where the host told it; for a reader that looks, from before the look that read it.</summary>
    public DelaySummary ReaderDelay { get; internal init; }

    /// <summary>From before the placing ioctl to the stamp after it, where the host told it: the wake happened in between.</summary>
    public DelaySummary StampDelay { get; internal init; }

    /// <summary>The blocked intervals of all vCPUs, as far as the recorder had room.</summary>
    public required IReadOnlyList<BlockedInterval> Timeline { get; init; }

    /// <summary>How many intervals the timeline had no room for.</summary>
    public long TimelineDropped { get; internal init; }

    /// <summary>When all vCPUs that count were blocked at once, as far as the recorder had room; in order of time.</summary>
    public required IReadOnlyList<OverlapInterval> Overlaps { get; init; }

    /// <summary>How many of those it had no room for.</summary>
    public long OverlapsDropped { get; internal init; }
}
