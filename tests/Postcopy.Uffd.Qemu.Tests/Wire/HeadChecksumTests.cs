namespace Postcopy.Uffd.Qemu.Tests.Wire;

/// <summary>A damaged head of a page record could claim to be any page.</summary>
public sealed class HeadChecksumTests
{
    [Fact]
    public void ARightHeadIsRead() => Assert.Contains("Page r 3000 07", Streams.Reader(Record(damage: 0)).ReadAll());

    [Fact]
    public void ADamagedHeadEndsTheStream()
    {
        QemuStreamReader reader = Streams.Reader(Record(damage: 1));
        MigrationStreamException e = Assert.Throws<MigrationStreamException>(() => reader.ReadAll());
        Assert.Contains("a record head whose XXH3", e.Message, StringComparison.Ordinal);
    }

    private static byte[] Record(uint damage)
    {
        const ulong offset = 0x3000;
        byte[] head = new WireBytes().U64(offset | (ulong)(RamFlags.Page | RamFlags.Checksum)).Name("r").ToArray();
        byte[] page = WireBytes.Filled(7);
        return new WireBytes().Begin(("r", 0x10000, null)).Discard("r", (0, 0x10000)).Package().Part()
            .Raw(head).U32(PageChecksum.OfHead(head) ^ damage).U64(PageChecksum.OfPayload(page, (long)offset)).Raw(page)
            .Finish().End().Finish().U8(0).ToArray();
    }
}
