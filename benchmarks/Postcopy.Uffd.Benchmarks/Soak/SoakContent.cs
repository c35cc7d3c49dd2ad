using System.Runtime.InteropServices;

namespace Postcopy.Uffd.Benchmarks.Soak;

/// <summary>A page's content as a function of where it is and of how often it was thrown away.</summary>
internal static class SoakContent
{
    internal const int PageBytes = 4096;

    internal static void Fill(long page, long generation, Span<byte> into)
    {
        Span<ulong> words = MemoryMarshal.Cast<byte, ulong>(into);
        ulong key = ((ulong)(page + 1) * 0x9E3779B97F4A7C15UL) ^ ((ulong)generation * 0xD6E8FEB86659FD93UL);
        for (int i = 0; i < words.Length; i++)
        {
            words[i] = key + (ulong)i;
        }
    }

    /// <summary>True when every byte is right; reads the guest's memory in a native call.</summary>
    internal static bool IsRight(RamBlock block, long page, long generation, byte[] room)
    {
        Span<byte> expected = stackalloc byte[PageBytes];
        block.Read(page * PageBytes, room);
        Fill(page, generation, expected);
        return expected.SequenceEqual(room);
    }
}
