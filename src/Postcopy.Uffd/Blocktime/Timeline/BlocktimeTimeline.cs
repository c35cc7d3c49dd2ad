namespace Postcopy.Uffd;

/// <summary>
/// A migration drawn over time: when each vCPU was blocked, when all were at once, how fast pages came, and how long faults
/// took. Written as a trace for a trace viewer, or as a picture that needs nothing but itself.
/// </summary>
/// <remarks>
/// Made of a reading, so it costs the migration nothing. How many intervals there are to draw is set by
/// <see cref="BlocktimeOptions.TimelineCapacity"/>. Immutable; any thread may write it.
/// </remarks>
public sealed partial class BlocktimeTimeline
{
    /// <summary>How many vCPUs the picture has lanes for; it says how many more there are. The trace has all.</summary>
    public const int LaneLimit = 128;

    private readonly string _title;

    /// <summary>Takes what is to be drawn.</summary>
    /// <param name="report">A reading with its timeline.</param>
    /// <param name="placement">Bytes placed over time, in order of time, on the same clock; null without.</param>
    /// <param name="title">A heading of one line; null for a general one.</param>
    /// <exception cref="ArgumentNullException">The report is null.</exception>
    /// <exception cref="ArgumentException">The samples are not in order of time.</exception>
    public BlocktimeTimeline(BlocktimeReport report, IReadOnlyList<PlacementSample>? placement = null, string? title = null)
    {
        ArgumentNullException.ThrowIfNull(report);
        Report = report;
        Placement = placement ?? [];
        _title = string.IsNullOrWhiteSpace(title) ? "Postcopy blocktime" : title!;
        for (int i = 1; i < Placement.Count; i++)
        {
            if (Placement[i].At <= Placement[i - 1].At)
            {
                throw new ArgumentException(
                    $"Sample {i} is of {Placement[i].At} ns, not after the one before it ({Placement[i - 1].At} ns); give them in order of time.", nameof(placement));
            }
        }

        (Start, End) = Bounds();
    }

    /// <summary>What was read.</summary>
    public BlocktimeReport Report { get; }

    /// <summary>Bytes placed over time.</summary>
    public IReadOnlyList<PlacementSample> Placement { get; }

    /// <summary>The first moment drawn: the first sample or the first blocked interval, on the tracker's clock in nanoseconds.</summary>
    public long Start { get; }

    /// <summary>The last moment drawn, after <see cref="Start"/>.</summary>
    public long End { get; }

    private long Span => End - Start;

    private static string LaneName(VcpuBlocktime vcpu) => vcpu.Name ?? FormattableString.Invariant($"vCPU {vcpu.Slot}");

    private (long Start, long End) Bounds()
    {
        long start = long.MaxValue;
        long end = long.MinValue;
        foreach (BlockedInterval interval in Report.Timeline)
        {
            start = Math.Min(start, interval.Start);
            end = Math.Max(end, interval.End);
        }

        if (Placement.Count > 0)
        {
            start = Math.Min(start, Placement[0].At);
            end = Math.Max(end, Placement[Placement.Count - 1].At);
        }

        if (start == long.MaxValue)
        {
            start = Report.At;
        }

        // Intervals were left out: the time they were in is shown nevertheless.
        end = Report.TimelineDropped > 0 ? Math.Max(end, Report.At) : end;
        return (start, Math.Max(end, start + 1000));
    }
}
