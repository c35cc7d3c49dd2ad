namespace Postcopy.Uffd;

/// <summary>A range inside a RAM block.</summary>
/// <param name="Offset">Bytes from the start of the block, a multiple of its page size.</param>
/// <param name="Length">Bytes, a multiple of its page size.</param>
public readonly record struct PageRange(long Offset, long Length)
{
    /// <summary>The first offset after the range.</summary>
    public long End => Offset + Length;
}
