namespace Postcopy.Uffd.Benchmarks.Compare;

internal sealed record ComparisonOptions
{
    internal required IReadOnlyList<string> Rows { get; init; }

    internal int Rounds { get; init; }

    /// <summary>Tiny sizes, for a test that every row runs.</summary>
    internal bool Quick { get; init; }

    internal FileInfo? Json { get; init; }

    internal DirectoryInfo? Save { get; init; }

    /// <summary>The size to measure with: full, or small enough for a test.</summary>
    internal long Size(long full, long quick) => Quick ? quick : full;
}
