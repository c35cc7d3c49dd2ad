using System.Runtime.InteropServices;

namespace Postcopy.Uffd.Qemu.Tests.Incoming;

/// <summary>A source's memory of which every page tells where it belongs; every eighth is zero.</summary>
internal sealed class PatternMemory(params SourceRamBlock[] blocks) : IMigrationSourceMemory
{
    public IReadOnlyList<SourceRamBlock> Blocks { get; } = blocks;

    public void ReadPages(SourceRamBlock block, long offset, Span<byte> destination)
    {
        for (int at = 0; at < destination.Length; at += 4096)
        {
            Fill(block.Name, offset + at, destination.Slice(at, 4096));
        }
    }

    internal static void Fill(string block, long offset, Span<byte> page)
    {
        long number = offset / 4096;
        Span<long> words = MemoryMarshal.Cast<byte, long>(page);
        if (number % 8 == 5 || block.StartsWith("zero", StringComparison.Ordinal))
        {
            words.Clear();
            return;
        }

        for (int i = 0; i < words.Length; i++)
        {
            words[i] = ((number + 1) * 0x100000001B3L) ^ ((long)block[^1] << 48) ^ i;
        }
    }

    internal static void AssertRight(RamBlock block)
    {
        byte[] found = new byte[4096];
        byte[] expected = new byte[4096];
        for (long offset = 0; offset < block.UsedLength; offset += 4096)
        {
            block.Read(offset, found);
            Fill(block.Name, offset, expected);
            Assert.True(found.AsSpan().SequenceEqual(expected), $"offset 0x{offset:x} of '{block.Name}' is wrong");
        }
    }
}
