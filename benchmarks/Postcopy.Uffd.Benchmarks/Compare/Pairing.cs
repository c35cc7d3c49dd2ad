namespace Postcopy.Uffd.Benchmarks.Compare;

/// <summary>
/// Two sides in alternation, and the baseline a second time in each round: its ratio to itself is what chance does here.
/// Who begins changes from round to round, so that whoever comes first has no advantage in the end.
/// </summary>
internal static class Pairing
{
    internal static RowResult Run(string name, string what, Goal goal, int rounds, Func<Sample> ours, Func<Sample> baseline) =>
        Judge(name, what, goal, Rounds(rounds, ours, baseline));

    /// <summary>The rounds themselves: in each what ours, the baseline, and the baseline again gave.</summary>
    internal static IReadOnlyList<T[]> Rounds<T>(int rounds, params ReadOnlySpan<Func<T>> oursFirstBaselineLast)
    {
        // The first round backs memory, compiles and fills caches, and does not count.
        Func<T>[] sides = [.. oursFirstBaselineLast, oursFirstBaselineLast[^1]];
        foreach (Func<T> side in oursFirstBaselineLast)
        {
            _ = side();
        }

        List<T[]> all = [];
        for (int round = 0; round < rounds; round++)
        {
            T[] samples = new T[sides.Length];
            for (int i = 0; i < sides.Length; i++)
            {
                int side = (round + i) % sides.Length;
                samples[side] = sides[side]();
            }

            all.Add(samples);
        }

        return all;
    }

    /// <summary>What rounds of ours, the baseline, and the baseline again say.</summary>
    internal static RowResult Judge(string name, string what, Goal goal, IReadOnlyList<Sample[]> rounds)
    {
        bool latency = rounds.All(s => Array.TrueForAll(s, x => x.Latency is not null));
        return new RowResult(name, what, goal)
        {
            Ratio = Interval.Of([.. rounds.Select(s => s[0].Value / s[1].Value)]),
            Self = Interval.Of([.. rounds.Select(s => s[2].Value / s[1].Value)]),
            Ours = Interval.Of([.. rounds.Select(s => s[0].Value)]),
            Baseline = Interval.Of([.. rounds.SelectMany(s => new[] { s[1].Value, s[2].Value })]),
            OurLatency = latency ? Distribution.Median([.. rounds.Select(s => s[0].Latency!.Value)]) : null,
            BaselineLatency = latency ? Distribution.Median([.. rounds.SelectMany(s => new[] { s[1].Latency!.Value, s[2].Latency!.Value })]) : null,
            TailRatio = latency ? Interval.Of([.. rounds.Select(s => s[0].Latency!.Value.P99 / s[1].Latency!.Value.P99)]) : null,
            TailSelf = latency ? Interval.Of([.. rounds.Select(s => s[2].Latency!.Value.P99 / s[1].Latency!.Value.P99)]) : null,
        };
    }
}
