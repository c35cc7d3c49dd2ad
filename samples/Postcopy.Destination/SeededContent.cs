using System.Runtime.InteropServices;

namespace Postcopy.Destination;

/// <summary>
/// The guest's memory as a function of a seed: a quarter of the pages zero, an eighth one repeated word, the rest
/// pseudo-random. Source and destination compute it independently, so every page can be checked.
/// </summary>
internal sealed class SeededContent(long seed)
{
    internal const int PageBytes = 4096;

    /// <summary>Writes the content of whole 4 KiB pages.</summary>
    /// <param name="block">Number of the RAM block.</param>
    /// <param name="offset">Bytes from its start, a multiple of 4096.</param>
    /// <param name="into">Whole pages.</param>
    internal void Fill(int block, long offset, Span<byte> into)
    {
        for (int at = 0; at < into.Length; at += PageBytes)
        {
            FillPage(block, (offset + at) / PageBytes, into.Slice(at, PageBytes));
        }
    }

    internal static bool IsZero(ulong key) => key % 8 < 2;

    internal ulong Key(int block, long page) =>
        Mix((ulong)seed ^ Mix(((ulong)(uint)block << 48) ^ (ulong)page));

    private void FillPage(int block, long page, Span<byte> into)
    {
        ulong key = Key(block, page);
        Span<ulong> words = MemoryMarshal.Cast<byte, ulong>(into);
        if (IsZero(key))
        {
            words.Clear();
        }
        else if (key % 8 == 2)
        {
            words.Fill(key);
        }
        else
        {
            // xorshift64*: fast, and no two pages alike.
            ulong x = key | 1;
            for (int i = 0; i < words.Length; i++)
            {
                x ^= x >> 12;
                x ^= x << 25;
                x ^= x >> 27;
                words[i] = x * 0x2545F4914F6CDD1DUL;
            }
        }
    }

    /// <summary>The finaliser of SplitMix64.</summary>
    private static ulong Mix(ulong x)
    {
        x += 0x9E3779B97F4A7C15UL;
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9UL;
        x = (x ^ (x >> 27)) * 0x94D049BB133111EBUL;
        return x ^ (x >> 31);
    }
}
