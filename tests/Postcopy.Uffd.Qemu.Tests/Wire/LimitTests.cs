namespace Postcopy.Uffd.Qemu.Tests.Wire;

public sealed class LimitTests
{
    private static MigrationStreamException Refusal(ProtocolLimits limits, WireBytes wire)
    {
        using QemuStreamReader reader = new(
            MigrationChannel.FromStream(new MemoryStream(wire.ToArray())), new MigrationStreamState(), Streams.Options with { Limits = limits });
        return Assert.Throws<MigrationStreamException>(() => reader.ReadAll());
    }

    [Fact]
    public void TooManyBlocksAreRefused()
    {
        MigrationStreamException e = Refusal(
            new ProtocolLimits { MaxBlocks = 2 }, new WireBytes().Begin(("a", 0x1000, null), ("b", 0x1000, null), ("c", 0x1000, null)));
        Assert.Contains("at most 2 blocks", e.Expected, StringComparison.Ordinal);
        Assert.Contains("'c'", e.Actual, StringComparison.Ordinal);
    }

    [Fact]
    public void TooMuchRamIsRefused()
    {
        MigrationStreamException e = Refusal(
            new ProtocolLimits { MaxTotalRam = 0x1000 }, new WireBytes().Begin(("a", 0x1000, null), ("b", 0x1000, null)));
        Assert.Contains("4096 bytes of RAM", e.Expected, StringComparison.Ordinal);
    }

    [Fact]
    public void TooLongBlockIsRefused()
    {
        MigrationStreamException e = Refusal(new ProtocolLimits { MaxBlockLength = 0x1000 }, new WireBytes().Begin(("a", 0x2000, null)));
        Assert.Contains("at most 4096", e.Expected, StringComparison.Ordinal);
    }

    [Fact]
    public void TooLargePageSizeIsRefused()
    {
        MigrationStreamException e = Refusal(
            new ProtocolLimits { MaxBlockPageSize = 0x200000 }, new WireBytes().Begin(("a", 0x40000000, 0x40000000)));
        Assert.Contains("at most 2097152", e.Expected, StringComparison.Ordinal);
    }

    [Fact]
    public void TooLongPackageIsRefusedBeforeItIsRead()
    {
        MigrationStreamException e = Refusal(
            new ProtocolLimits { MaxPackageLength = 1000 }, new WireBytes().Begin(("a", 0x1000, null)).Package(new byte[2000]));
        Assert.Contains("10 to 1000", e.Expected, StringComparison.Ordinal);
    }

    [Fact]
    public void PackageThatDoesNotComeCostsNoMemory()
    {
        byte[] bytes = new WireBytes().Begin(("a", 0x1000, null)).Command(7, 0x08, 0, 0, 0).Command(4).ToArray();
        using QemuStreamReader reader = Streams.Reader(bytes);
        reader.ReadTo(StreamRecordKind.SectionEnd);
        long before = GC.GetAllocatedBytesForCurrentThread();
        Assert.Throws<MigrationConnectionException>(() => reader.ReadNext());
        Assert.True(GC.GetAllocatedBytesForCurrentThread() - before < 200_000);
    }

    [Fact]
    public void LongestNamesAndCommandsFit()
    {
        string name = new('n', 255);
        (ulong, ulong)[] ranges = [.. Enumerable.Range(0, (65535 - 258) / 16).Select(i => ((ulong)i << 12, 0x1000UL))];
        byte[] bytes = new WireBytes().Begin((name, 0x10000000, null)).Discard(name, ranges).ToArray();
        using QemuStreamReader reader = Streams.Reader(bytes, chunk: 999);
        reader.ReadTo(StreamRecordKind.Discard);
        Assert.Equal(ranges.Length, reader.Discards.Length);
        Assert.Equal(name, reader.Block!.Name);
    }

    [Fact]
    public void SmallReceiveBufferIsRefused() =>
        Assert.Throws<ArgumentOutOfRangeException>(() => new QemuStreamReader(
            MigrationChannel.FromStream(new MemoryStream()), new MigrationStreamState(), new QemuStreamOptions { ReceiveBufferSize = 4096 }));
}
