namespace Postcopy.Uffd.Benchmarks.Compare;

/// <summary>What a row is to reach.</summary>
/// <param name="Limit">The bound of the ratio's median; null for rows that are only reported.</param>
/// <param name="AtLeast">True when the ratio must be at least the limit, not at most.</param>
internal readonly record struct Goal(double? Limit, bool AtLeast = false)
{
    internal static Goal Reported => new(null);

    internal static Goal AtMost(double limit) => new(limit);

    internal static Goal NotLess(double limit) => new(limit, AtLeast: true);

    /// <summary>
    /// A goal counts as met within the A/A interval: as far as the baseline differs from itself, a ratio says nothing.
    /// </summary>
    internal Verdict Judge(Interval ratio, Interval? self)
    {
        if (Limit is not { } limit)
        {
            return Verdict.Reported;
        }

        if (AtLeast ? ratio.Median >= limit : ratio.Median <= limit)
        {
            return Verdict.Met;
        }

        double slack = self is not { } aa ? 1 : AtLeast ? Math.Min(1, aa.Min) : Math.Max(1, aa.Max);
        return (AtLeast ? ratio.Median >= limit * slack : ratio.Median <= limit * slack) ? Verdict.WithinNoise : Verdict.Missed;
    }

    public override string ToString() => Limit is { } limit
        ? string.Create(System.Globalization.CultureInfo.InvariantCulture, $"{(AtLeast ? ">=" : "<=")} {limit:0.###}")
        : "reported";
}
