namespace Postcopy.Uffd.Benchmarks.Compare;

/// <summary>What one side gave in one round.</summary>
/// <param name="Value">What is compared.</param>
/// <param name="Latency">The distribution behind it, if there is one.</param>
internal readonly record struct Sample(double Value, Distribution? Latency = null)
{
    /// <summary>A sample that is compared by its median.</summary>
    internal static Sample ByMedian(Span<ulong> nanoseconds)
    {
        Distribution distribution = Distribution.Of(nanoseconds);
        return new Sample(distribution.P50, distribution);
    }
}
