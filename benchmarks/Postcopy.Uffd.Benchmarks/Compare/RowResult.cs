namespace Postcopy.Uffd.Benchmarks.Compare;

/// <summary>One line of the table.</summary>
internal sealed record RowResult(string Name, string What, Goal Goal)
{
    /// <summary>Ours through the baseline's, or through the limit for figures that have no baseline.</summary>
    internal Interval? Ratio { get; init; }

    /// <summary>The baseline through itself, in the same rounds.</summary>
    internal Interval? Self { get; init; }

    internal string Unit { get; init; } = "ns";

    internal Interval? Ours { get; init; }

    internal Interval? Baseline { get; init; }

    internal Distribution? OurLatency { get; init; }

    internal Distribution? BaselineLatency { get; init; }

    /// <summary>p99 through p99, round by round, where the latency is what matters.</summary>
    internal Interval? TailRatio { get; init; }

    internal Interval? TailSelf { get; init; }

    /// <summary>Further figures, by name.</summary>
    internal IReadOnlyDictionary<string, double> Figures { get; init; } = new Dictionary<string, double>();

    /// <summary>What a reader must know beside the numbers.</summary>
    internal string? Note { get; init; }

    /// <summary>False when a condition beside the ratio is missed, such as a bound of processor time.</summary>
    internal bool ConditionsHold { get; init; } = true;

    internal Verdict Verdict => Ratio is not { } ratio ? Verdict.NotMeasured
        : Goal.Judge(ratio, Self) is var verdict && verdict != Verdict.Reported && !ConditionsHold ? Verdict.Missed
        : verdict;

    /// <summary>A figure with a fixed limit instead of a baseline: the ratio is value through limit.</summary>
    internal static RowResult Absolute(string name, string what, string unit, double limit, IReadOnlyCollection<double> values) =>
        new(name, what, Goal.AtMost(1))
        {
            Unit = unit,
            Ours = Interval.Of(values),
            Ratio = Interval.Of([.. values.Select(v => limit == 0 ? (v == 0 ? 0 : double.PositiveInfinity) : v / limit)]),
            Figures = new Dictionary<string, double> { ["limit"] = limit },
        };

    internal static RowResult NotMeasured(string name, string what, string why) => new(name, what, Goal.Reported) { Note = why };
}
