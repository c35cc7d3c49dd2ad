namespace Postcopy.Uffd;

/// <summary>The highest figures shown so far: a later reading does not go below them.</summary>
/// <remarks>
/// A reading counts an open stall up to now. If its end is recorded later but stamped earlier, the truth is below what was shown;
/// the figure then stands still until the truth has caught up, and the report says by how much it is ahead.
/// </remarks>
internal struct PresentedTime
{
    internal long Up;
    internal long Down;
    internal long Overlap;

    internal readonly long Total => Up + Down;

    /// <summary>Takes the true figures in; the answer is by how much what is shown exceeds them.</summary>
    internal long Raise(long total, long down, long overlap)
    {
        Up = Math.Max(Up, total - down);
        Down = Math.Max(Down, down);
        Overlap = Math.Max(Overlap, Math.Min(overlap, Total));
        return Total - total;
    }
}
