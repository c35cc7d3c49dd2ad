using System.Diagnostics;
using System.Text;

namespace Postcopy.Uffd.Qemu;

/// <summary>One entry of the source's block list.</summary>
[DebuggerDisplay("{Name} {Length} / {PageSize}")]
public sealed class StreamRamBlock
{
    /// <summary>Describes a block.</summary>
    /// <param name="index">Its place in the block list.</param>
    /// <param name="name">Its name, 1 to 255 bytes in UTF-8.</param>
    /// <param name="length">Its used length in bytes.</param>
    /// <param name="pageSize">The page size of the memory behind it at the source.</param>
    /// <exception cref="ArgumentException">The name has no byte or more than 255.</exception>
    public StreamRamBlock(int index, string name, long length, long pageSize)
    {
        ArgumentNullException.ThrowIfNull(name);
        NameBytes = Encoding.UTF8.GetBytes(name);
        if (NameBytes.Length is 0 or > ProtocolLimits.MaxNameLength)
        {
            throw new ArgumentException($"A block name has 1 to {ProtocolLimits.MaxNameLength} bytes, not {NameBytes.Length}.", nameof(name));
        }

        Index = index;
        Name = name;
        Length = length;
        PageSize = pageSize;
    }

    /// <summary>The block's place in the block list; a host can keep its own blocks in an array by it.</summary>
    public int Index { get; }

    /// <summary>The name by which pages, discards and requests refer to the block.</summary>
    public string Name { get; }

    /// <summary>The used length in bytes, a multiple of <see cref="PageSize"/>.</summary>
    public long Length { get; }

    /// <summary>The page size: requests and discards are multiples of it, and all its target pages come in one run.</summary>
    public long PageSize { get; }

    internal byte[] NameBytes { get; }
}
