using Postcopy.Uffd;
using Postcopy.Uffd.Qemu;

namespace Postcopy.Destination;

/// <summary>The embedded source's guest: two RAM blocks whose content follows from the seed.</summary>
internal sealed class SeededMemory : IMigrationSourceMemory
{
    internal const string RamName = "pc.ram";
    internal const string RomName = "pc.rom";

    private const long RomBytes = 128 << 10;

    private readonly SeededContent _content;

    internal SeededMemory(long seed, long memoryBytes, PageSize pageSize)
    {
        _content = new SeededContent(seed);
        Blocks = [new SourceRamBlock(RamName, memoryBytes, pageSize.Bytes), new SourceRamBlock(RomName, RomBytes)];
    }

    public IReadOnlyList<SourceRamBlock> Blocks { get; }

    public void ReadPages(SourceRamBlock block, long offset, Span<byte> destination) =>
        _content.Fill(block.Name == RamName ? 0 : 1, offset, destination);
}
