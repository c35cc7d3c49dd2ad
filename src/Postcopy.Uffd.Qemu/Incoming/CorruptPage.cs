namespace Postcopy.Uffd.Qemu;

/// <summary>A page whose content was not what its checksum says. It was not placed, and was asked for again.</summary>
/// <param name="Block">The name of its RAM block.</param>
/// <param name="Offset">Bytes from the block's start.</param>
/// <param name="Expected">XXH3 of the page as the source sent it.</param>
/// <param name="Actual">XXH3 of what came.</param>
public readonly record struct CorruptPage(string Block, long Offset, ulong Expected, ulong Actual)
{
    /// <summary>The page, and both checksums in hex.</summary>
    public override string ToString() => $"page at 0x{Offset:x} of '{Block}': XXH3 {Expected:x16} was sent, {Actual:x16} came";
}
