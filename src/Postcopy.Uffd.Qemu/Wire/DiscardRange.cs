namespace Postcopy.Uffd.Qemu;

/// <summary>A stretch of a block that the source will send again.</summary>
/// <param name="Start">First byte, a multiple of the block's page size.</param>
/// <param name="Length">Bytes, a multiple of the block's page size.</param>
public readonly record struct DiscardRange(long Start, long Length);
