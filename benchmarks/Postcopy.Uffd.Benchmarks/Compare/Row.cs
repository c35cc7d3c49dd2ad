namespace Postcopy.Uffd.Benchmarks.Compare;

/// <summary>A row of the comparison: measures one or several variants.</summary>
internal sealed record Row(string Name, Func<ComparisonOptions, IEnumerable<RowResult>> Measure);
