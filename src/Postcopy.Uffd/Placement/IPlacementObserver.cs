namespace Postcopy.Uffd;

/// <summary>
/// Who wants to know of placements. Called by whatever thread placed, after the received bits are set; must not
/// block, allocate or throw.
/// </summary>
internal interface IPlacementObserver
{
    /// <summary>Pages became received.</summary>
    /// <param name="block">Their block.</param>
    /// <param name="awaited">True when somebody had asked for one of them.</param>
    void OnPlaced(RamBlock block, bool awaited);

    /// <summary>The source went on elsewhere in the middle of a stretch, whose rest is wanted.</summary>
    /// <param name="block">Its block.</param>
    /// <param name="firstPage">Its first page.</param>
    void OnStretchLeft(RamBlock block, long firstPage);
}
