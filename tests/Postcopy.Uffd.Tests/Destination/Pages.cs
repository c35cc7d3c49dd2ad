using System.Runtime.InteropServices;

namespace Postcopy.Uffd.Tests.Destination;

/// <summary>Page content that tells where it belongs, in native memory.</summary>
internal static unsafe class Pages
{
    internal static nuint Make(long seed, long length)
    {
        nuint p = (nuint)NativeMemory.AlignedAlloc((nuint)length, 4096);
        Fill(new Span<byte>((void*)p, (int)length), seed);
        return p;
    }

    internal static void Free(nuint page) => NativeMemory.AlignedFree((void*)page);

    internal static void Fill(Span<byte> page, long seed)
    {
        Span<long> words = MemoryMarshal.Cast<byte, long>(page);
        for (int i = 0; i < words.Length; i++)
        {
            words[i] = unchecked((seed + 1) * 0x1E3779B97F4A7C15L) ^ i;
        }
    }

    internal static byte[] Expected(long seed, int length)
    {
        byte[] page = new byte[length];
        Fill(page, seed);
        return page;
    }
}
