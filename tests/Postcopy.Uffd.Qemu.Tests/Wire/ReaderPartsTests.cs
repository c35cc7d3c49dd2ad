using System.IO.Compression;

namespace Postcopy.Uffd.Qemu.Tests.Wire;

/// <summary>The reader's buffers by themselves.</summary>
public sealed class ReaderPartsTests
{
    private const int Page = 4096;

    [Fact]
    public unsafe void UnpackedPagesStayAsTheyAreUntilAllAreGivenBack()
    {
        using PageUnpacker unpacker = new(Page);
        byte[][] pages = [.. Enumerable.Range(0, 64).Select(i => ZlibInflaterTests.Content(new Random(i), i))];
        nuint[] at = new nuint[pages.Length];
        for (int i = 0; i < pages.Length; i++)
        {
            Assert.False(unpacker.IsFull);
            at[i] = Unpack(pages[i]);
        }

        Assert.True(unpacker.IsFull);
        Assert.Equal(at.Length, at.Distinct().Count());
        for (int i = 0; i < pages.Length; i++)
        {
            Assert.Equal(0u, at[i] % Page);
            // SAFETY: a page of the unpacker's, which is not disposed.
            Assert.True(new ReadOnlySpan<byte>((void*)at[i], Page).SequenceEqual(pages[i]), $"page {i}");
        }

        unpacker.Reset();
        Assert.False(unpacker.IsFull);
        Assert.Equal(at[0], Unpack(pages[5]));

        nuint Unpack(byte[] page)
        {
            byte[] packed = ZlibInflaterTests.Pack(page, CompressionLevel.Fastest);
            fixed (byte* bytes = packed)
            {
                return unpacker.TryUnpack((nuint)bytes, packed.Length) ?? throw new InvalidOperationException("It is not unpacked.");
            }
        }
    }

    [Theory]
    [InlineData(5000, 3000, 6000)]
    [InlineData(8000, 4097, 100)]
    [InlineData(8192, 8192, 8192)]
    [InlineData(8192, 1, 8192)]
    public void WhatIsLeftOfABufferIsMovedWhenTheRestWouldNotFit(int first, int taken, int then)
    {
        byte[] bytes = new byte[20_000];
        new Random(1).NextBytes(bytes);
        using ReceiveBuffer buffer = new(MigrationChannel.FromStream(new ChunkedStream(bytes, 1000)), 8192);

        buffer.Fill(first, null);
        Assert.True(buffer.Peek(first).SequenceEqual(bytes.AsSpan(0, first)));
        buffer.Advance(taken);
        buffer.Fill(then, null);

        Assert.Equal(taken, buffer.Offset);
        Assert.True(buffer.Peek(then).SequenceEqual(bytes.AsSpan(taken, then)));
    }

    [Fact]
    public void AsManyPagesAsCanBeReceivedAtOnceAreSaid()
    {
        using QemuStreamReader reader = Streams.Reader(new WireBytes().Begin(("a", 4096, null)).ToArray());
        _ = reader.ReadNext();

        // 256 KiB hold 63 records of 4104 bytes and the beginning of one; 64 more are received to where they are wanted.
        Assert.Equal(63 + 1 + 64, reader.MostPagesAtOnce);
    }
}
