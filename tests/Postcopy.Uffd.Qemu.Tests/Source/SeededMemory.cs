namespace Postcopy.Uffd.Qemu.Tests.Source;

/// <summary>Blocks of pseudo-random, repeated and zero pages that anyone can compute again from the seed.</summary>
internal sealed class SeededMemory(int seed, params SourceRamBlock[] blocks) : IMigrationSourceMemory
{
    private const int PageSize = 4096;

    public IReadOnlyList<SourceRamBlock> Blocks { get; } = blocks;

    public void ReadPages(SourceRamBlock block, long offset, Span<byte> destination)
    {
        for (int at = 0; at < destination.Length; at += PageSize)
        {
            Fill(block.Name, (offset + at) / PageSize, destination.Slice(at, PageSize));
        }
    }

    private void Fill(string name, long page, Span<byte> destination)
    {
        uint state = (uint)((seed * 7919) + (page * 104729)) ^ (uint)name.Length;
        switch (page % 4)
        {
            case 0:
                destination.Clear();
                break;
            case 1:
                destination.Fill((byte)(page | 1));
                break;
            default:
                for (int i = 0; i < destination.Length; i++)
                {
                    state = (state * 1664525) + 1013904223;
                    destination[i] = (byte)(state >> 24);
                }

                break;
        }
    }
}
