namespace Postcopy.Uffd.Benchmarks.Compare;

/// <summary>How a row did.</summary>
internal enum Verdict
{
    /// <summary>It has no goal.</summary>
    Reported,

    /// <summary>The median reaches the goal.</summary>
    Met,

    /// <summary>The median misses it by less than the baseline differs from itself.</summary>
    WithinNoise,

    /// <summary>The median misses it.</summary>
    Missed,

    /// <summary>This machine cannot measure it; the note says why.</summary>
    NotMeasured,
}
