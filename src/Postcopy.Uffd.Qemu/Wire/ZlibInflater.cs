namespace Postcopy.Uffd.Qemu;

/// <summary>
/// Decodes one zlib stream (RFC 1950, 1951) from memory to memory, and allocates nothing after its construction: the runtime's
/// ZLibStream cannot be reset, so it costs several objects and a native state for each page.
/// </summary>
/// <remarks>Not thread-safe. Every read and write is bounds-checked; what is malformed ends the decoding.</remarks>
internal sealed class ZlibInflater
{
    private const int MaxBits = 15;
    private const int Literals = 288;
    private const int Distances = 30;
    private const int EndOfBlock = 256;
    private const int AdlerModulus = 65521;

    // Arrays: a span of constants wider than a byte allocates in code that is not optimized.
    private static readonly ushort[] s_lengthBase =
        [3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258];

    private static readonly ushort[] s_distanceBase =
        [1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577];

    private readonly HuffmanTable _literals = new(Literals);
    private readonly HuffmanTable _distances = new(Distances + 2);
    private readonly HuffmanTable _lengths = new(19);
    private readonly byte[] _codeLengths = new byte[Literals + Distances + 2];

    private static ReadOnlySpan<byte> LengthOrder => [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

    private static ReadOnlySpan<byte> LengthExtra => [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0];

    private static ReadOnlySpan<byte> DistanceExtra =>
        [0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13];

    /// <summary>Decodes a stream that takes up all of the input and gives exactly the output's length; false when it does not.</summary>
    /// <param name="input">The stream.</param>
    /// <param name="output">Where it goes; in part written when the result is false.</param>
    internal bool TryInflate(ReadOnlySpan<byte> input, Span<byte> output)
    {
        const int Header = 2;
        const int Trailer = sizeof(uint);

        // Method 8, a window of at most 32 KiB, no dictionary.
        if (input.Length < Header + Trailer || (input[0] & 0xf) != 8 || input[0] >> 4 > 7 || ((input[0] << 8) | input[1]) % 31 != 0 || (input[1] & 0x20) != 0)
        {
            return false;
        }

        Bits bits = new(input[Header..^Trailer]);
        int at = 0;
        bool last;
        do
        {
            last = bits.Take(1) != 0;
            bool right = bits.Take(2) switch
            {
                0 => Stored(ref bits, output, ref at),
                1 => Fixed() && Block(ref bits, output, ref at),
                2 => Dynamic(ref bits) && Block(ref bits, output, ref at),
                _ => false,
            };
            if (!right)
            {
                return false;
            }
        }
        while (!last);

        return at == output.Length && bits.IsAtEnd
            && System.Buffers.Binary.BinaryPrimitives.ReadUInt32BigEndian(input[^Trailer..]) == Adler32(output);
    }

    private static bool Stored(ref Bits bits, Span<byte> output, ref int at)
    {
        bits.AlignToByte();
        int length = bits.Take(16);
        int complement = bits.Take(16);
        if (length != (~complement & 0xffff) || length > output.Length - at || !bits.TryCopy(output.Slice(at, length)))
        {
            return false;
        }

        at += length;
        return true;
    }

    private bool Fixed()
    {
        Span<byte> lengths = _codeLengths;
        lengths[..144].Fill(8);
        lengths[144..256].Fill(9);
        lengths[256..280].Fill(7);
        lengths[280..Literals].Fill(8);
        lengths.Slice(Literals, Distances + 2).Fill(5);
        return _literals.TryBuild(lengths[..Literals]) && _distances.TryBuild(lengths.Slice(Literals, Distances + 2));
    }

    private bool Dynamic(ref Bits bits)
    {
        int literals = bits.Take(5) + 257;
        int distances = bits.Take(5) + 1;
        int count = bits.Take(4) + 4;
        if (literals > 286 || distances > Distances)
        {
            return false;
        }

        Span<byte> lengths = _codeLengths;
        lengths[..19].Clear();
        for (int i = 0; i < count; i++)
        {
            lengths[LengthOrder[i]] = (byte)bits.Take(3);
        }

        if (!_lengths.TryBuild(lengths[..19]))
        {
            return false;
        }

        for (int at = 0; at < literals + distances;)
        {
            int symbol = _lengths.Decode(ref bits);
            if (symbol is < 0 or > 18)
            {
                return false;
            }

            if (symbol < 16)
            {
                lengths[at++] = (byte)symbol;
                continue;
            }

            if (symbol == 16 && at == 0)
            {
                return false;
            }

            byte value = symbol == 16 ? lengths[at - 1] : (byte)0;
            int repeat = symbol switch { 16 => 3 + bits.Take(2), 17 => 3 + bits.Take(3), _ => 11 + bits.Take(7) };
            if (repeat > literals + distances - at)
            {
                return false;
            }

            lengths.Slice(at, repeat).Fill(value);
            at += repeat;
        }

        return lengths[EndOfBlock] != 0 && _literals.TryBuild(lengths[..literals]) && _distances.TryBuild(lengths.Slice(literals, distances));
    }

    private bool Block(ref Bits bits, Span<byte> output, ref int at)
    {
        while (true)
        {
            int symbol = _literals.Decode(ref bits);
            if (symbol is < 0 or > 285)
            {
                return false;
            }

            if (symbol < EndOfBlock)
            {
                if (at == output.Length)
                {
                    return false;
                }

                output[at++] = (byte)symbol;
                continue;
            }

            if (symbol == EndOfBlock)
            {
                return !bits.IsExhausted;
            }

            int length = s_lengthBase[symbol - 257] + bits.Take(LengthExtra[symbol - 257]);
            int code = _distances.Decode(ref bits);
            if (code is < 0 or >= Distances)
            {
                return false;
            }

            int distance = s_distanceBase[code] + bits.Take(DistanceExtra[code]);
            if (distance > at || length > output.Length - at || bits.IsExhausted)
            {
                return false;
            }

            // Source and destination may overlap: the copy repeats what it has just written.
            for (int i = 0; i < length; i++, at++)
            {
                output[at] = output[at - distance];
            }
        }
    }

    private static uint Adler32(ReadOnlySpan<byte> data)
    {
        // The most bytes for which the sums stay below 2^32.
        const int Run = 5552;
        uint a = 1;
        uint b = 0;
        for (int from = 0; from < data.Length; from += Run)
        {
            foreach (byte value in data.Slice(from, Math.Min(Run, data.Length - from)))
            {
                a += value;
                b += a;
            }

            a %= AdlerModulus;
            b %= AdlerModulus;
        }

        return (b << 16) | a;
    }

    /// <summary>Bits from the low end of each byte on; zeros behind the end, which is remembered.</summary>
    private ref struct Bits(ReadOnlySpan<byte> bytes)
    {
        private readonly ReadOnlySpan<byte> _bytes = bytes;
        private int _next;
        private ulong _held;
        private int _count;

        /// <summary>More was taken than there is.</summary>
        internal readonly bool IsExhausted => _count < 0;

        internal readonly bool IsAtEnd => _next == _bytes.Length && _count is >= 0 and < 8;

        /// <summary>The next 15 bits, without taking them.</summary>
        internal int Peek()
        {
            while (_count is >= 0 and <= 48 && _next < _bytes.Length)
            {
                _held |= (ulong)_bytes[_next++] << _count;
                _count += 8;
            }

            return (int)(_held & ((1 << MaxBits) - 1));
        }

        internal void Skip(int count)
        {
            _held >>= count;
            _count -= count;
        }

        internal int Take(int count)
        {
            _ = Peek();
            int value = (int)(_held & ((1UL << count) - 1));
            Skip(count);
            return value;
        }

        internal void AlignToByte() => Skip(_count < 0 ? 0 : _count & 7);

        internal bool TryCopy(Span<byte> to)
        {
            for (; !to.IsEmpty && _count >= 8; to = to[1..])
            {
                to[0] = (byte)_held;
                Skip(8);
            }

            if (_count < 0 || to.Length > _bytes.Length - _next)
            {
                return false;
            }

            _bytes.Slice(_next, to.Length).CopyTo(to);
            _next += to.Length;
            return true;
        }
    }

    /// <summary>A canonical code: the short words by one look into a table, the long ones by their order.</summary>
    private sealed class HuffmanTable(int symbols)
    {
        private const int FastBits = 9;
        private const int LengthBits = 4;
        private readonly ushort[] _fast = new ushort[1 << FastBits];
        private readonly ushort[] _ofLength = new ushort[MaxBits + 1];
        private readonly ushort[] _sorted = new ushort[symbols];

        /// <summary>False for a code with more words than its lengths have room for, or fewer, unless it has one word only.</summary>
        internal bool TryBuild(ReadOnlySpan<byte> lengths)
        {
            Array.Clear(_ofLength);
            Array.Clear(_fast);
            foreach (byte length in lengths)
            {
                _ofLength[length]++;
            }

            int used = lengths.Length - _ofLength[0];
            _ofLength[0] = 0;
            Span<ushort> offsets = stackalloc ushort[MaxBits + 2];
            Span<int> codes = stackalloc int[MaxBits + 2];
            int left = 1;
            for (int bits = 1; bits <= MaxBits; bits++)
            {
                left = (left << 1) - _ofLength[bits];
                if (left < 0)
                {
                    return false;
                }

                offsets[bits + 1] = (ushort)(offsets[bits] + _ofLength[bits]);
                codes[bits + 1] = (codes[bits] + _ofLength[bits]) << 1;
            }

            if (left > 0 && !(used == 0 || (used == 1 && _ofLength[1] == 1)))
            {
                return false;
            }

            for (int symbol = 0; symbol < lengths.Length; symbol++)
            {
                int length = lengths[symbol];
                if (length != 0)
                {
                    _sorted[offsets[length]++] = (ushort)symbol;
                    AddFast(codes[length]++, length, symbol);
                }
            }

            return true;
        }

        /// <summary>The next symbol; -1 when the bits are no word of the code.</summary>
        internal int Decode(ref Bits bits)
        {
            int ahead = bits.Peek();
            int entry = _fast[ahead & ((1 << FastBits) - 1)];
            if (entry != 0)
            {
                bits.Skip(entry & ((1 << LengthBits) - 1));
                return bits.IsExhausted ? -1 : entry >> LengthBits;
            }

            int code = 0;
            int first = 0;
            int index = 0;
            for (int length = 1; length <= MaxBits; length++)
            {
                code |= ahead & 1;
                ahead >>= 1;
                int count = _ofLength[length];
                if (code - count < first)
                {
                    bits.Skip(length);
                    return bits.IsExhausted ? -1 : _sorted[index + (code - first)];
                }

                index += count;
                first = (first + count) << 1;
                code <<= 1;
            }

            return -1;
        }

        /// <summary>Words come with their first bit lowest, so the table is entered with the word turned round.</summary>
        private void AddFast(int code, int length, int symbol)
        {
            if (length > FastBits)
            {
                return;
            }

            int turned = 0;
            for (int i = 0; i < length; i++)
            {
                turned |= ((code >> i) & 1) << (length - 1 - i);
            }

            for (; turned < 1 << FastBits; turned += 1 << length)
            {
                _fast[turned] = (ushort)((symbol << LengthBits) | length);
            }
        }
    }
}
