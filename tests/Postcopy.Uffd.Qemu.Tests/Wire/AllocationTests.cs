namespace Postcopy.Uffd.Qemu.Tests.Wire;

/// <summary>
/// Zero bytes in the best of several rounds: the runtime itself allocates on a thread now and then (tiering up a method),
/// whereas an allocation per record would be there in every round.
/// </summary>
public sealed class AllocationTests
{
    private const int Rounds = 5;

    internal static void AssertNothing(Action round)
    {
        long least = long.MaxValue;
        for (int i = 0; i < Rounds && least != 0; i++)
        {
            long before = GC.GetAllocatedBytesForCurrentThread();
            round();
            least = Math.Min(least, GC.GetAllocatedBytesForCurrentThread() - before);
        }

        Assert.Equal(0, least);
    }

    [Fact]
    public void PageRecordsAllocateNothing()
    {
        const int Pages = 4000;
        WireBytes wire = new WireBytes().Begin(("a", Pages * 0x1000, null), ("b", 0x1000, null)).Package().Part();
        for (ulong page = 0; page < Pages; page++)
        {
            _ = (page % 4) switch
            {
                0 => wire.NamedZero("b", 0).NamedZero("a", page << 12),
                1 => wire.NextZero(page << 12),
                _ => wire.NextPage(page << 12, (byte)page),
            };
        }

        using QemuStreamReader reader = Streams.Reader(wire.Finish().ToArray());
        reader.ReadTo(StreamRecordKind.ZeroPage);
        AssertNothing(() =>
        {
            for (int i = 0; i < Pages / Rounds; i++)
            {
                if (reader.ReadNext() is not (StreamRecordKind.Page or StreamRecordKind.ZeroPage))
                {
                    throw new InvalidOperationException();
                }
            }
        });
    }

    [Fact]
    public void PackedPagesAllocateNothing()
    {
        const int Pages = 1000;
        byte[] page = new byte[4096];
        byte[] delta = [4, 3, 1, 2, 3];
        WireBytes wire = new WireBytes().Begin(("a", Pages * 0x1000, null)).Part().NamedPage("a", 0, 1);
        for (ulong number = 1; number < Pages; number++)
        {
            ulong offset = number << 12;
            byte[] packed = ZlibInflaterTests.Pack(ZlibInflaterTests.Content(new Random((int)number), (int)number), System.IO.Compression.CompressionLevel.Fastest);
            _ = number % 2 == 0
                ? wire.U64(offset | WireBytes.Compress | WireBytes.Continue).U32((uint)packed.Length).Raw(packed)
                : wire.U64(offset | WireBytes.Xbzrle | WireBytes.Continue).U8(1).U16(delta.Length).Raw(delta);
        }

        using QemuStreamReader reader = Streams.Reader(wire.Finish().ToArray());
        reader.ReadTo(StreamRecordKind.Page);
        AssertNothing(() =>
        {
            for (int i = 0; i < Pages / Rounds - 1; i++)
            {
                StreamRecordKind kind = reader.ReadNext();
                if (kind != StreamRecordKind.Page && !(kind == StreamRecordKind.XbzrlePage && XbzrleDelta.TryApply(Streams.Content(reader), page)))
                {
                    throw new InvalidOperationException();
                }
            }
        });
    }

    [Fact]
    public void ReceivingFromASocketAllocatesNothing()
    {
        const int Pages = 500;
        WireBytes wire = new WireBytes().Begin(("a", Pages * 0x1000, null)).Package().Part().NamedPage("a", 0, 1);
        for (ulong page = 1; page < Pages; page++)
        {
            wire.NextPage(page << 12, (byte)page);
        }

        (MigrationChannel near, MigrationChannel far) = Streams.ChannelPair();
        using (near)
        using (far)
        {
            byte[] bytes = wire.ToArray();
            Thread sender = new(() => far.Send(bytes));
            sender.Start();
            using QemuStreamReader reader = new(near, new MigrationStreamState(), Streams.Options);
            reader.ReadTo(StreamRecordKind.Page);
            reader.ReadNext();
            AssertNothing(() =>
            {
                for (int i = 0; i < (Pages - 2) / Rounds; i++)
                {
                    reader.ReadNext();
                }
            });
            sender.Join();
        }
    }

    [Fact]
    public void PageRequestsAllocateNothing()
    {
        (MigrationChannel near, MigrationChannel far) = Streams.ChannelPair();
        using (near)
        using (far)
        {
            StreamRamBlock block = new(0, "pc.ram", 1 << 30, 4096);
            using ReturnPathWriter writer = new(near);
            Assert.Equal(ReturnPathOutcome.Sent, writer.TryRequestPages(block, 0, 4096));
            AssertNothing(() =>
            {
                for (int i = 1; i < 200; i++)
                {
                    writer.TryRequestPages(block, i * 4096L, 4096);
                }
            });
        }
    }
}
