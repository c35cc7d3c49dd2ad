namespace Postcopy.Uffd.Benchmarks.Compare;

/// <summary>What a set of latencies looks like, in nanoseconds.</summary>
internal readonly record struct Distribution(double P50, double P90, double P99, double Max, long Count)
{
    /// <summary>Sorts the samples in place.</summary>
    internal static Distribution Of(Span<ulong> samples)
    {
        if (samples.IsEmpty)
        {
            throw new InvalidOperationException("No sample was taken.");
        }

        samples.Sort();
        return new Distribution(At(samples, 0.50), At(samples, 0.90), At(samples, 0.99), samples[^1], samples.Length);
    }

    /// <summary>The medians of several rounds' figures; the maximum is the largest of all.</summary>
    internal static Distribution Median(IReadOnlyCollection<Distribution> rounds) => new(
        Statistics.Median(rounds.Select(d => d.P50)),
        Statistics.Median(rounds.Select(d => d.P90)),
        Statistics.Median(rounds.Select(d => d.P99)),
        rounds.Max(d => d.Max),
        rounds.Sum(d => d.Count));

    private static double At(ReadOnlySpan<ulong> sorted, double quantile) =>
        sorted[Math.Clamp((int)Math.Ceiling(quantile * sorted.Length) - 1, 0, sorted.Length - 1)];
}
