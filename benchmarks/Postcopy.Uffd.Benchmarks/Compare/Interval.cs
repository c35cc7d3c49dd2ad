namespace Postcopy.Uffd.Benchmarks.Compare;

/// <summary>Median and range of what the rounds gave.</summary>
internal readonly record struct Interval(double Median, double Min, double Max, int N)
{
    internal static Interval Of(IReadOnlyCollection<double> values) => new(Statistics.Median(values), values.Min(), values.Max(), values.Count);
}
