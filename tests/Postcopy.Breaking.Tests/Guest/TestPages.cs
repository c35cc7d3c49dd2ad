using System.IO.Hashing;
using System.Runtime.InteropServices;
using System.Text;
using Postcopy.Uffd;
using Postcopy.Uffd.Qemu;

namespace Postcopy.Breaking.Tests;

/// <summary>Guest memory in which each page tells its block and its place; every seventh page is zero.</summary>
internal sealed class TestPages(params SourceRamBlock[] blocks) : IMigrationSourceMemory
{
    internal const int Bytes = 4096;

    public IReadOnlyList<SourceRamBlock> Blocks { get; } = blocks;

    public void ReadPages(SourceRamBlock block, long offset, Span<byte> destination)
    {
        for (int at = 0; at < destination.Length; at += Bytes)
        {
            Fill(block.Name, offset + at, destination.Slice(at, Bytes));
        }
    }

    internal static void Fill(string block, long offset, Span<byte> page)
    {
        long number = offset / Bytes;
        Span<ulong> words = MemoryMarshal.Cast<byte, ulong>(page);
        if (number % 7 == 3)
        {
            words.Clear();
            return;
        }

        Span<byte> name = stackalloc byte[256];
        ulong key = XxHash3.HashToUInt64(name[..Encoding.UTF8.GetBytes(block, name)]) ^ ((ulong)(number + 1) * 0x9E3779B97F4A7C15UL);
        for (int i = 0; i < words.Length; i++)
        {
            words[i] = key + (ulong)i;
        }
    }

    internal static bool IsRight(RamBlock block, long offset, byte[] room)
    {
        Span<byte> expected = stackalloc byte[Bytes];
        block.Read(offset, room);
        Fill(block.Name, offset, expected);
        return expected.SequenceEqual(room);
    }

    /// <summary>Throws when a byte of the memory is wrong.</summary>
    internal static void Check(IEnumerable<RamBlock> blocks)
    {
        byte[] room = new byte[Bytes];
        foreach (RamBlock block in blocks)
        {
            for (long offset = 0; offset < block.UsedLength; offset += Bytes)
            {
                if (!IsRight(block, offset, room))
                {
                    throw new InvalidDataException($"Offset 0x{offset:x} of '{block.Name}' is wrong.");
                }
            }
        }
    }
}
