namespace Postcopy.Uffd.Benchmarks.Compare;

/// <summary>
/// Two sides in alternation, and the baseline a second time in each round: its ratio to itself is what chance does here.
/// Who begins changes from round to round, so that whoever comes first has no advantage in the end.
/// </summary>
internal static class Pairing
{
    internal static RowResult Run(string name, string what, Goal goal, int rounds, Func<Sample> ours, Func<Sample> baseline)
    {
        // The first round backs memory, compiles and fills caches, and does not count.
        _ = baseline();
        _ = ours();
        Func<Sample>[] sides = [ours, baseline, baseline];
        List<Sample[]> all = [];
        for (int round = 0; round < rounds; round++)
        {
            Sample[] samples = new Sample[sides.Length];
            for (int i = 0; i < sides.Length; i++)
            {
                int side = (round + i) % sides.Length;
                samples[side] = sides[side]();
            }

            all.Add(samples);
        }

        bool latency = all.TrueForAll(s => Array.TrueForAll(s, x => x.Latency is not null));
        return new RowResult(name, what, goal)
        {
            Ratio = Interval.Of([.. all.Select(s => s[0].Value / s[1].Value)]),
            Self = Interval.Of([.. all.Select(s => s[2].Value / s[1].Value)]),
            Ours = Interval.Of([.. all.Select(s => s[0].Value)]),
            Baseline = Interval.Of([.. all.SelectMany(s => new[] { s[1].Value, s[2].Value })]),
            OurLatency = latency ? Distribution.Median([.. all.Select(s => s[0].Latency!.Value)]) : null,
            BaselineLatency = latency ? Distribution.Median([.. all.SelectMany(s => new[] { s[1].Latency!.Value, s[2].Latency!.Value })]) : null,
            TailRatio = latency ? Interval.Of([.. all.Select(s => s[0].Latency!.Value.P99 / s[1].Latency!.Value.P99)]) : null,
            TailSelf = latency ? Interval.Of([.. all.Select(s => s[2].Latency!.Value.P99 / s[1].Latency!.Value.P99)]) : null,
        };
    }
}
