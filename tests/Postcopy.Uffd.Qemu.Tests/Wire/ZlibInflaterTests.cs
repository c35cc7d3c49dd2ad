using System.Buffers.Binary;
using System.Diagnostics;
using System.IO.Compression;

namespace Postcopy.Uffd.Qemu.Tests.Wire;

/// <summary>The decoder against the runtime's own zlib, on streams that are right and on damaged ones.</summary>
public sealed class ZlibInflaterTests
{
    private const int Page = 4096;
    private readonly ZlibInflater _inflater = new();

    [Theory]
    [InlineData(CompressionLevel.NoCompression)]
    [InlineData(CompressionLevel.Fastest)]
    [InlineData(CompressionLevel.Optimal)]
    [InlineData(CompressionLevel.SmallestSize)]
    public void EveryPageComesOutAsItWentIn(CompressionLevel level)
    {
        Random random = new(1);
        byte[] found = new byte[Page];
        for (int i = 0; i < 400; i++)
        {
            byte[] page = Content(random, i);
            byte[] packed = Pack(page, level);
            Assert.True(_inflater.TryInflate(packed, found), $"page {i}, {packed.Length} bytes");
            Assert.True(page.AsSpan().SequenceEqual(found));
            Assert.False(_inflater.TryInflate(packed, new byte[Page - 1]));
            Assert.False(_inflater.TryInflate(packed, new byte[Page + 1]));
            Assert.False(_inflater.TryInflate(packed.AsSpan(0, packed.Length - 1), found));
            Assert.False(_inflater.TryInflate([.. packed, 0], found));
        }
    }

    /// <summary>Blocks of fixed codes, and several blocks: zlib makes the latter when it is flushed.</summary>
    [Fact]
    public void BlocksOfAllKindsInOneStream()
    {
        byte[] page = Content(new Random(3), 2);
        using MemoryStream packed = new();
        using (ZLibStream zlib = new(packed, CompressionLevel.Optimal, leaveOpen: true))
        {
            for (int at = 0; at < Page; at += 500)
            {
                zlib.Write(page, at, Math.Min(500, Page - at));
                zlib.Flush();
            }
        }

        byte[] found = new byte[Page];
        Assert.True(_inflater.TryInflate(packed.ToArray(), found));
        Assert.Equal(page, found);
    }

    /// <summary>All 286 codes of literals and lengths: the last one is for matches of 258 bytes.</summary>
    [Fact]
    public void ThePageThatNeedsTheLastLengthCode()
    {
        byte[] page = new byte[Page];
        new Random(4).NextBytes(page.AsSpan(0, Page / 2));
        byte[] packed = Pack(page, CompressionLevel.Optimal);
        byte[] found = new byte[Page];

        // A dynamic block with HLIT 29.
        Assert.Equal((2, 29), ((packed[2] >> 1) & 3, packed[2] >> 3));
        Assert.True(_inflater.TryInflate(packed, found));
        Assert.Equal(page, found);
    }

    [Theory]
    [InlineData(4000, 96, true)]
    [InlineData(4000, 97, false)]
    [InlineData(4000, 4000, false)]
    [InlineData(4097, 0, false)]
    public void StoredBlocksThatDoNotFitAreRefused(int first, int second, bool right)
    {
        byte[] bytes = new byte[first + second];
        new Random(5).NextBytes(bytes);
        byte[] page = bytes[..Math.Min(Page, bytes.Length)];
        byte[] sum = new byte[4];
        BinaryPrimitives.WriteUInt32BigEndian(sum, Adler32(page));
        byte[] packed = [0x78, 0x01, .. Stored(bytes.AsSpan(0, first), last: false), .. Stored(bytes.AsSpan(first), last: true), .. sum];

        byte[] found = new byte[Page];
        Assert.Equal(right, _inflater.TryInflate(packed, found));
        Assert.Equal(right, right && page.AsSpan().SequenceEqual(found));

        static byte[] Stored(ReadOnlySpan<byte> content, bool last) =>
        [
            (byte)(last ? 1 : 0), (byte)content.Length, (byte)(content.Length >> 8), (byte)~content.Length, (byte)(~content.Length >> 8), .. content,
        ];
    }

    /// <summary>What zlib refuses is refused, and what it takes gives the same bytes.</summary>
    [Fact]
    public void DamagedStreamsAreRefusedAsZlibDoes()
    {
        Random random = new(2);
        byte[] found = new byte[Page];
        int taken = 0;
        byte[] noise = new byte[64];
        noise.AsSpan().Fill(0xff);
        for (int i = 0; i < 20_000; i++)
        {
            byte[] packed = Pack(Content(random, i), (CompressionLevel)(i % 4));
            for (int n = random.Next(1, 4); n > 0; n--)
            {
                packed[random.Next(random.Next(2) == 0 ? Math.Min(packed.Length, 80) : packed.Length)] ^= (byte)(1 << random.Next(8));
            }

            // The runtime gives out a page before it has seen the end of its stream; with noise behind, it has to look for it.
            byte[]? expected = Unpack([.. packed, .. noise]);
            if (_inflater.TryInflate(packed, found))
            {
                Assert.True(found.AsSpan().SequenceEqual(expected), $"stream {i} is taken, and zlib gives something else");
                taken++;
            }
            else if (expected is not null)
            {
                // The end comes early: what is last in the bytes is not the stream's checksum.
                Assert.True(Adler32(expected) != BinaryPrimitives.ReadUInt32BigEndian(packed.AsSpan(^4..)), $"stream {i} is refused, and right");
            }
        }

        // Bits that mean nothing: two that cancel each other, or the level that the header names.
        Assert.InRange(taken, 1, 2000);
    }

    [Fact]
    public void ItAllocatesNothing()
    {
        byte[][] packed = [.. Enumerable.Range(0, 50).Select(i => Pack(Content(new Random(i), i), (CompressionLevel)(i % 4)))];
        byte[] found = new byte[Page];
        AllocationTests.AssertNothing(() =>
        {
            foreach (byte[] one in packed)
            {
                if (!_inflater.TryInflate(one, found))
                {
                    throw new UnreachableException();
                }
            }
        });
    }

    /// <summary>From all the same over text and records to noise.</summary>
    internal static byte[] Content(Random random, int kind)
    {
        byte[] page = new byte[Page];
        int symbols = (kind % 6) switch { 0 => 1, 1 => 2, 2 => 30, 3 => 100, 4 => 200, _ => 256 };
        for (int i = 0; i < Page; i++)
        {
            page[i] = (byte)(i > 64 && random.Next(4) < kind % 3 ? page[i - random.Next(1, 64)] : random.Next(random.Next(symbols) + 1));
        }

        return page;
    }

    internal static byte[] Pack(byte[] page, CompressionLevel level)
    {
        using MemoryStream packed = new();
        using (ZLibStream zlib = new(packed, level, leaveOpen: true))
        {
            zlib.Write(page);
        }

        return packed.ToArray();
    }

    private static uint Adler32(byte[] page)
    {
        (uint a, uint b) = (1, 0);
        foreach (byte value in page)
        {
            a = (a + value) % 65521;
            b = (a + b) % 65521;
        }

        return (b << 16) | a;
    }

    /// <summary>By the runtime; null unless it is all of one stream of a page.</summary>
    private static byte[]? Unpack(byte[] packed)
    {
        try
        {
            using MemoryStream input = new(packed);
            using ZLibStream zlib = new(input, CompressionMode.Decompress);
            byte[] page = new byte[Page];
            return zlib.ReadAtLeast(page, Page, throwOnEndOfStream: false) == Page && zlib.ReadByte() < 0 ? page : null;
        }
        catch (InvalidDataException)
        {
            return null;
        }
    }
}
