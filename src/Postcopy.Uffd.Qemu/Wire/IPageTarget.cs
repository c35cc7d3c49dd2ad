namespace Postcopy.Uffd.Qemu;

/// <summary>Where a reader may receive pages to before it has seen them: staging that they would be copied to otherwise.</summary>
internal interface IPageTarget
{
    /// <summary>Offers native memory for neighbouring pages.</summary>
    /// <param name="block">Their block.</param>
    /// <param name="offset">Bytes from its start of the first one.</param>
    /// <param name="pages">How many are expected; how many there is room for.</param>
    /// <returns>
    /// Where the first goes, the others behind it; 0 for nowhere. What is written there may be anything: only pages that come
    /// out of the reader afterwards are content.
    /// </returns>
    nuint TryTake(StreamRamBlock block, long offset, ref int pages);
}
