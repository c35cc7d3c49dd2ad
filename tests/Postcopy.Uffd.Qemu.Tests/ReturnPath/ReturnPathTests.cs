namespace Postcopy.Uffd.Qemu.Tests.ReturnPath;

public sealed class ReturnPathTests
{
    private static readonly StreamRamBlock s_a = new(0, "pc.ram", 0x8000, 4096);
    private static readonly StreamRamBlock s_b = new(1, "b", 0x200000, 0x200000);

    [Fact]
    public void MessagesAreAsDescribed()
    {
        (MigrationChannel near, MigrationChannel far) = Streams.ChannelPair();
        using (near)
        using (far)
        {
            using ReturnPathWriter writer = new(near);
            writer.Pong(0x42);
            Assert.Equal(ReturnPathOutcome.Sent, writer.TryRequestPages(s_a, 0x3000, 0x1000));
            writer.SendReceivedBitmap(s_a, [0x0f, 0, 0, 0, 0, 0, 0, 0]);
            writer.ResumeAck();
            writer.SwitchoverAck();
            writer.Shut(0);
            Assert.True(writer.Flush(TimeSpan.FromSeconds(10)));
            byte[] expected = Convert.FromHexString(
                "0002000400000042"
                + "000300130000000000003000000010000670632e72616d"
                + "000500070670632e72616d" + "0000000000000008" + "0f00000000000000" + "0123456789abcdef"
                + "0006000400000001"
                + "00070000"
                + "0001000400000000");
            byte[] actual = new byte[expected.Length];
            for (int filled = 0; filled < actual.Length;)
            {
                filled += far.Receive(actual.AsSpan(filled));
            }

            Assert.Equal(Convert.ToHexString(expected), Convert.ToHexString(actual));
            Assert.Equal(1, writer.Requests);
        }
    }

    [Fact]
    public void SourceReadsWhatWasWritten()
    {
        byte[] bytes = new WireBytes()
            .U16(2).U16(4).U32(1)
            .U16(3).U16(8 + 4 + 1 + 1).U64(0).U32(0x200000).Name("b")
            .U16(4).U16(12).U64(0x0).U32(0x0)
            .U16(5).U16(7).Name("pc.ram").U64(8).Raw(1, 2, 0, 0, 0, 0, 0, 0).U64(0x0123456789abcdef)
            .U16(6).U16(4).U32(1).U16(7).U16(0).U16(1).U16(4).U32(0).ToArray();
        using ReturnPathReader reader = new(MigrationChannel.FromStream(new ChunkedStream(bytes, 5)), [s_a, s_b]);
        Assert.Equal(ReturnPathMessageType.Pong, reader.ReadNext());
        Assert.Equal(1u, reader.Value);
        Assert.Equal(ReturnPathMessageType.ReqPagesId, reader.ReadNext());
        Assert.Equal(("b", 0L, 0x200000L), (reader.Block!.Name, reader.Start, reader.Length));
        Assert.Equal(ReturnPathMessageType.ReqPages, reader.ReadNext());
        Assert.Equal(("b", 0L, 0L), (reader.Block!.Name, reader.Start, reader.Length));
        Assert.Equal(ReturnPathMessageType.RecvBitmap, reader.ReadNext());
        Assert.Equal([1, 2, 0, 0, 0, 0, 0, 0], reader.Bitmap.ToArray());
        Assert.Equal(ReturnPathMessageType.ResumeAck, reader.ReadNext());
        Assert.Equal(ReturnPathMessageType.SwitchoverAck, reader.ReadNext());
        Assert.Equal(ReturnPathMessageType.Shut, reader.ReadNext());
        Assert.Equal(0u, reader.Value);
        Assert.Throws<MigrationConnectionException>(() => reader.ReadNext());
    }

    public static TheoryData<string, byte[], int, string> Malformed => new()
    {
        { "type 0", new WireBytes().U16(0).U16(0).ToArray(), 0, "between 1 and 7" },
        { "type 9", new WireBytes().U16(9).U16(0).ToArray(), 0, "between 1 and 7" },
        { "pong of 8", new WireBytes().U16(2).U16(8).ToArray(), 2, "4 bytes of Pong" },
        { "request of 600", new WireBytes().U16(3).U16(600).ToArray(), 2, "14 to 268 bytes" },
        { "misaligned", new WireBytes().U16(3).U16(14).U64(0x800).U32(0x1000).Name("b").ToArray(), 4, "whole pages" },
        { "past the end", new WireBytes().U16(3).U16(19).U64(0x8000).U32(0x1000).Name("pc.ram").ToArray(), 4, "inside 'pc.ram'" },
        { "unknown block", new WireBytes().U16(3).U16(14).U64(0).U32(0x1000).Name("q").ToArray(), 16, "RAM block" },
        { "no previous block", new WireBytes().U16(4).U16(12).U64(0).U32(0x1000).ToArray(), 4, "named request" },
        { "name shorter than counted", new WireBytes().U16(3).U16(15).U64(0).U32(0x1000).Name("b").U8(0).ToArray(), 18, "end of ReqPagesId" },
        { "bitmap size", new WireBytes().U16(5).U16(2).Name("b").U64(16).ToArray(), 6, "64 bytes for 'b'" },
        { "bitmap end", new WireBytes().U16(5).U16(7).Name("pc.ram").U64(8).U64(0).U64(1).ToArray(), 27, "end mark" },
    };

    [Theory]
    [MemberData(nameof(Malformed))]
    public void MalformedMessageIsRefused(string name, byte[] bytes, int offset, string expected)
    {
        using ReturnPathReader reader = new(MigrationChannel.FromStream(new MemoryStream(bytes)), [s_a, s_b]);
        MigrationStreamException e = Assert.Throws<MigrationStreamException>(() => reader.ReadNext());
        Assert.Equal("return path", e.Section);
        Assert.True(e.StreamOffset == offset && e.Expected.Contains(expected, StringComparison.Ordinal), $"{name}: {e.Message}");
    }

    [Fact]
    public async Task MessagesOfManyThreadsNeverMixAndNothingIsLost()
    {
        const int Threads = 4;
        const int PerThread = 3000;
        (MigrationChannel near, MigrationChannel far) = Streams.ChannelPair();
        using (near)
        using (far)
        {
            StreamRamBlock block = new(0, "pc.ram", 1L << 40, 4096);
            using ReturnPathWriter writer = new(near, capacity: 16);
            Task[] producers = [.. Enumerable.Range(0, Threads).Select(thread => Task.Factory.StartNew(
                () =>
                {
                    for (int i = 0; i < PerThread; i++)
                    {
                        long offset = ((thread * (long)PerThread) + i) * 4096;
                        while (writer.TryRequestPages(block, offset, 4096) == ReturnPathOutcome.Busy)
                        {
                            Thread.Yield();
                        }

                        if (i % 100 == 0)
                        {
                            writer.Pong((uint)i);
                        }
                    }
                },
                TaskCreationOptions.LongRunning))];
            using ReturnPathReader reader = new(far, [block]);
            long[] next = new long[Threads];
            int pongs = 0;
            for (int message = 0; message < Threads * (PerThread + (PerThread / 100)); message++)
            {
                if (reader.ReadNext() == ReturnPathMessageType.Pong)
                {
                    pongs++;
                    continue;
                }

                (long thread, long i) = Math.DivRem(reader.Start / 4096, PerThread);
                Assert.Equal(next[thread]++, i);
            }

            await Task.WhenAll(producers).WaitAsync(TimeSpan.FromSeconds(20), TestContext.Current.CancellationToken);
            Assert.Equal(Threads * PerThread / 100, pongs);
        }
    }

    [Fact]
    public void FullSocketQueuesThenSaysBusyAndTheThreadGoesOnLater()
    {
        (MigrationChannel near, MigrationChannel far) = Streams.ChannelPair();
        using (near)
        using (far)
        {
            StreamRamBlock block = new(0, new string('n', 255), 1L << 40, 4096);
            using ReturnPathWriter writer = new(near, capacity: 16);
            long sent = 0;
            while (writer.TryRequestPages(block, sent * 4096, 4096) == ReturnPathOutcome.Sent)
            {
                sent++;
                Assert.True(sent < 1_000_000);
            }

            using ReturnPathReader reader = new(far, [block]);
            for (long i = 0; i < sent; i++)
            {
                Assert.Equal(ReturnPathMessageType.ReqPagesId, reader.ReadNext());
                Assert.Equal(i * 4096, reader.Start);
            }

            Assert.True(writer.Flush(TimeSpan.FromSeconds(10)));
            Assert.Equal(ReturnPathOutcome.Sent, writer.TryRequestPages(block, 0, 4096));
        }
    }

    [Fact]
    public void LostConnectionIsAnOutcomeForTheFaultThreadAndAnExceptionForOthers()
    {
        (MigrationChannel near, MigrationChannel far) = Streams.ChannelPair();
        using (near)
        {
            far.Dispose();
            using ReturnPathWriter writer = new(near);
            long deadline = Environment.TickCount64 + 10_000;
            while (writer.TryRequestPages(s_a, 0, 4096) != ReturnPathOutcome.Disconnected)
            {
                Assert.True(Environment.TickCount64 < deadline);
            }

            Assert.True(writer.IsBroken);
            Assert.Throws<MigrationConnectionException>(() => writer.Pong(1));
        }
    }

    [Fact]
    public void DisposeWithAFullSocketDoesNotHang()
    {
        (MigrationChannel near, MigrationChannel far) = Streams.ChannelPair();
        using (near)
        using (far)
        {
            ReturnPathWriter writer = new(near);
            writer.SendReceivedBitmap(new StreamRamBlock(0, "big", 1L << 40, 4096), new byte[32 << 20]);
            Assert.False(writer.Flush(TimeSpan.FromMilliseconds(20)));
            writer.Dispose();
            Assert.Equal(ReturnPathOutcome.Disconnected, writer.TryRequestPages(s_a, 0, 4096));
        }
    }

    [Fact]
    public void StreamsWithoutNonBlockingSendAreServedByTheWritersThread()
    {
        MemoryStream stream = new();
        using ReturnPathWriter writer = new(MigrationChannel.FromStream(stream));
        Assert.Equal(ReturnPathOutcome.Sent, writer.TryRequestPages(s_a, 0, 4096));
        writer.Shut(0);
        Assert.True(writer.Flush(TimeSpan.FromSeconds(10)));
        Assert.Equal(23 + 8, stream.Length);
    }
}
