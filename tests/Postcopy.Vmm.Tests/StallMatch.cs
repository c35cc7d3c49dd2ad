using Postcopy.Uffd;
using Postcopy.Vmm.Guest;

namespace Postcopy.Vmm.Tests;

/// <summary>
/// Two clocks that saw the same stalls: the host's, which reported them, and the guest's time-stamp counter, which its
/// vCPUs share. How the one is set against the other is not known; but there must be one offset with which each stall of
/// each vCPU lies in a gap that this vCPU saw.
/// </summary>
internal sealed class StallMatch
{
    private readonly List<(double[] Starts, double[] Ends, (double Start, double End)[] Stalls)> _vcpus = [];

    /// <summary>Adds what is known of a vCPU.</summary>
    /// <param name="stalls">As they were reported.</param>
    /// <param name="gaps">As the guest saw them.</param>
    /// <param name="ticksPerMs">Of the guest's counter.</param>
    internal void Add(IEnumerable<BlockedInterval> stalls, IEnumerable<GuestGap> gaps, double ticksPerMs)
    {
        GuestGap[] seen = [.. gaps.OrderBy(g => g.Start)];
        _vcpus.Add((
            [.. seen.Select(g => g.Start / ticksPerMs)],
            [.. seen.Select(g => (g.Start + g.Length) / ticksPerMs)],
            [.. stalls.Select(s => (s.Start / 1e6, s.End / 1e6))]));
    }

    /// <summary>The largest share of the stalls, over all offsets, that lie inside a gap.</summary>
    /// <param name="slackMs">How far a stall may begin before its gap, or end after it: both ends are stamped late.</param>
    internal double Share(double slackMs)
    {
        int best = 0;
        foreach (double offset in _vcpus[0].Stalls.SelectMany(stall => _vcpus[0].Starts.Select(start => stall.Start - start)))
        {
            best = Math.Max(best, _vcpus.Sum(v => v.Stalls.Count(s => IsInside(v.Starts, v.Ends, s.Start - offset, s.End - offset, slackMs))));
        }

        return best / (double)_vcpus.Sum(v => v.Stalls.Length);
    }

    private static bool IsInside(double[] starts, double[] ends, double start, double end, double slackMs)
    {
        int at = Array.BinarySearch(starts, start + slackMs);
        int gap = at >= 0 ? at : ~at - 1;
        return gap >= 0 && end <= ends[gap] + slackMs;
    }
}
