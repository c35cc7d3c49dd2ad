using Postcopy.Uffd;
using Postcopy.Vmm.Guest;

namespace Postcopy.Vmm.Tests;

/// <summary>
/// Two clocks that saw the same stalls: the host's, which reported them, and the guest's own time-stamp counter. How the
/// one is set against the other is not known; but there must be one offset with which each stall lies in a gap.
/// </summary>
internal static class StallMatch
{
    /// <summary>The largest share of the stalls, over all offsets, that lie inside a gap of the guest.</summary>
    /// <param name="stalls">Of one vCPU.</param>
    /// <param name="gaps">Of the same.</param>
    /// <param name="ticksPerMs">Of the guest's counter.</param>
    /// <param name="slackMs">How far a stall may begin before its gap, or end after it: both ends are stamped late.</param>
    internal static double Share(IEnumerable<BlockedInterval> stalls, IEnumerable<GuestGap> gaps, double ticksPerMs, double slackMs)
    {
        (double Start, double End)[] reported = [.. stalls.Select(s => (s.Start / 1e6, s.End / 1e6)).Order()];
        (double Start, double End)[] seen = [.. gaps.Select(g => (g.Start / ticksPerMs, (g.Start + g.Length) / ticksPerMs)).Order()];
        double[] starts = [.. seen.Select(s => s.Start)];
        int best = 0;
        foreach (double offset in reported.SelectMany(s => starts.Select(start => s.Start - start)))
        {
            best = Math.Max(best, reported.Count(s => IsInside(s.Start - offset, s.End - offset)));
        }

        return best / (double)reported.Length;

        bool IsInside(double start, double end)
        {
            int at = Array.BinarySearch(starts, start + slackMs);
            int gap = at >= 0 ? at : ~at - 1;
            return gap >= 0 && end <= seen[gap].End + slackMs;
        }
    }
}
