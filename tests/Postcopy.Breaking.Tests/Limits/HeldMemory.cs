using Postcopy.Uffd;
using Postcopy.Uffd.Qemu;

namespace Postcopy.Breaking.Tests;

/// <summary>A source's guest memory, real and in this process: what must still be there when the destination is gone.</summary>
internal sealed class HeldMemory : IMigrationSourceMemory, IDisposable
{
    private readonly GuestMemory _memory;

    internal HeldMemory(SourceRamBlock block)
    {
        Blocks = [block];
        _memory = GuestMemory.Allocate(new GuestMemoryOptions { Length = block.Length });
        byte[] page = new byte[TestPages.Bytes];
        for (long offset = 0; offset < block.Length; offset += page.Length)
        {
            TestPages.Fill(block.Name, offset, page);
            _memory.Write(offset, page);
        }
    }

    public IReadOnlyList<SourceRamBlock> Blocks { get; }

    public void ReadPages(SourceRamBlock block, long offset, Span<byte> destination) => _memory.Read(offset, destination);

    internal bool IsIntact()
    {
        byte[] found = new byte[TestPages.Bytes];
        byte[] expected = new byte[TestPages.Bytes];
        for (long offset = 0; offset < Blocks[0].Length; offset += found.Length)
        {
            _memory.Read(offset, found);
            TestPages.Fill(Blocks[0].Name, offset, expected);
            if (!expected.AsSpan().SequenceEqual(found))
            {
                return false;
            }
        }

        return true;
    }

    public void Dispose() => _memory.Dispose();
}
