namespace Postcopy.Uffd.Qemu.Tests.Wire;

public sealed class AllocationTests
{
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
        for (int i = 0; i < 100; i++)
        {
            reader.ReadNext();
        }

        long before = GC.GetAllocatedBytesForCurrentThread();
        int records = 0;
        while (reader.ReadNext() is StreamRecordKind.Page or StreamRecordKind.ZeroPage)
        {
            records++;
        }

        long allocated = GC.GetAllocatedBytesForCurrentThread() - before;
        Assert.True(records > Pages);
        Assert.Equal(0, allocated);
    }

    [Fact]
    public void ReceivingFromASocketAllocatesNothing()
    {
        const int Pages = 64;
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
            long before = GC.GetAllocatedBytesForCurrentThread();
            for (int page = 2; page < Pages; page++)
            {
                reader.ReadNext();
            }

            Assert.Equal(0, GC.GetAllocatedBytesForCurrentThread() - before);
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
            long before = GC.GetAllocatedBytesForCurrentThread();
            for (int i = 1; i < 500; i++)
            {
                writer.TryRequestPages(block, i * 4096L, 4096);
            }

            Assert.Equal(0, GC.GetAllocatedBytesForCurrentThread() - before);
        }
    }
}
