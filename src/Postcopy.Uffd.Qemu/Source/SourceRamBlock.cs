namespace Postcopy.Uffd.Qemu;

/// <summary>A block of memory to migrate.</summary>
/// <param name="Name">1 to 255 bytes in UTF-8, once per source.</param>
/// <param name="Length">Bytes, a multiple of the page size.</param>
/// <param name="PageSize">The page size that the block is discarded, requested and sent by: 4096, or a huge page.</param>
public sealed record SourceRamBlock(string Name, long Length, long PageSize = 4096);
