namespace Postcopy.Uffd;

/// <summary>Pages that are wanted from the source.</summary>
/// <param name="Block">Their block.</param>
/// <param name="Offset">Bytes from its start, a multiple of its page size.</param>
/// <param name="Length">Bytes, a multiple of its page size.</param>
public readonly record struct PageRequest(RamBlock Block, long Offset, long Length);
