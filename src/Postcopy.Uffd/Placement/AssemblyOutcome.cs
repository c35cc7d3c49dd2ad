namespace Postcopy.Uffd;

/// <summary>What a target page did to the host page it belongs to.</summary>
public enum AssemblyOutcome
{
    /// <summary>The host page is complete and was handed to the placer.</summary>
    Placed = 0,

    /// <summary>More target pages are needed.</summary>
    Incomplete,

    /// <summary>
    /// It is not the next one: outside the block, not aligned, or another host page is half-way. A sound source never
    /// sends this; nothing was taken.
    /// </summary>
    OutOfSequence,
}
