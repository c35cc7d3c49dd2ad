using System.Globalization;
using System.Numerics;

namespace System;

/// <summary>Members of numbers that <c>netstandard2.0</c> lacks and the Polyfill package does not bring.</summary>
[Microsoft.CodeAnalysis.Embedded]
internal static class NumberExtensions
{
    // Index of the bit that is left when a 64-bit de Bruijn sequence is shifted by it: one entry for each top six bits.
    private static readonly byte[] s_deBruijn = DeBruijnTable();

    private const ulong DeBruijn = 0x03F7_9D71_B4CB_0A89;

    extension(BitOperations)
    {
        internal static int TrailingZeroCount(ulong value) =>
            value == 0 ? 64 : s_deBruijn[unchecked((value & (~value + 1)) * DeBruijn) >> 58];

        internal static int TrailingZeroCount(long value) => TrailingZeroCount(unchecked((ulong)value));

        internal static int TrailingZeroCount(uint value) => value == 0 ? 32 : TrailingZeroCount((ulong)value);

        internal static int TrailingZeroCount(int value) => TrailingZeroCount(unchecked((uint)value));

        internal static int Log2(ulong value)
        {
            value |= value >> 1;
            value |= value >> 2;
            value |= value >> 4;
            value |= value >> 8;
            value |= value >> 16;
            value |= value >> 32;
            return s_deBruijn[unchecked((value - (value >> 1)) * DeBruijn) >> 58];
        }

        internal static int PopCount(ulong value)
        {
            value -= (value >> 1) & 0x5555_5555_5555_5555;
            value = (value & 0x3333_3333_3333_3333) + ((value >> 2) & 0x3333_3333_3333_3333);
            value = (value + (value >> 4)) & 0x0F0F_0F0F_0F0F_0F0F;
            return (int)(unchecked(value * 0x0101_0101_0101_0101) >> 56);
        }
    }

    extension(nuint)
    {
        // 64-bit processes only: the library runs on x64 and arm64.
        internal static nuint MaxValue => unchecked((nuint)ulong.MaxValue);
    }

    extension(long)
    {
        internal static long Parse(ReadOnlySpan<char> text, IFormatProvider? provider) =>
            long.Parse(text.ToString(), NumberStyles.Integer, provider);
    }

    extension(TimeSpan span)
    {
        internal double TotalNanoseconds => span.Ticks * 100.0;
    }

    private static byte[] DeBruijnTable()
    {
        byte[] table = new byte[64];
        for (int bit = 0; bit < 64; bit++)
        {
            table[unchecked((1UL << bit) * DeBruijn) >> 58] = (byte)bit;
        }

        return table;
    }
}

/// <summary>Apart, because a static extension member of one type would collide with that of another by its signature.</summary>
[Microsoft.CodeAnalysis.Embedded]
internal static class UInt64Extensions
{
    extension(ulong)
    {
        internal static ulong TrailingZeroCount(ulong value) => (ulong)BitOperations.TrailingZeroCount(value);
    }
}
