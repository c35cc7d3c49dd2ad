using System.IO.Compression;

namespace Postcopy.Uffd.Qemu.Tests.Wire;

/// <summary>Streams written byte by byte from qemu-wire.md.</summary>
public sealed class GoldenStreamTests
{
    internal static byte[] SmallMigration() => new WireBytes()
        .Begin(("a", 0x3000, null), ("b/c@d", 0x2000, null))
        .Part().NamedPage("a", 0, 0x11).NextZero(0x1000).Finish()
        .Discard("a", (0x1000, 0x1000), (0x2000, 0x1000)).Discard("b/c@d", (0, 0x2000))
        .Ping(2).Package([0x04, 0, 0, 0, 9, 1, (byte)'x', 0, 0, 0, 0, 0, 0, 0, 1, 0xaa, 0x7e, 0, 0, 0, 9], 3).Ping(4)
        .Part().NamedPage("a", 0x1000, 0x22).NextPage(0x2000, 0x33).Finish()
        .Part().NamedZero("b/c@d", 0).NextPage(0x1000, 0x44).Finish()
        .End().U64(WireBytes.Eos).Footer()
        .U8(0)
        .ToArray();

    private static readonly string[] s_smallMigrationRecords =
    [
        "Configuration", "OpenReturnPath", "Ping 1", "PostcopyAdvise", "BlockList", "SectionEnd",
        "Page a 0 11", "ZeroPage a 1000", "SectionEnd",
        "Discard a 1000+1000,2000+1000", "Discard b/c@d 0+2000", "Ping 2", "Package", "Ping 4",
        "Page a 1000 22", "Page a 2000 33", "SectionEnd", "ZeroPage b/c@d 0", "Page b/c@d 1000 44", "SectionEnd",
        "SectionEnd", "EndOfStream",
    ];

    [Theory]
    [InlineData(int.MaxValue)]
    [InlineData(1)]
    [InlineData(7)]
    [InlineData(4097)]
    public void WholeMigrationIsReadInOrder(int chunk)
    {
        byte[] bytes = SmallMigration();
        using QemuStreamReader reader = Streams.Reader(bytes, chunk: chunk);
        Assert.Equal(s_smallMigrationRecords, reader.ReadAll());
        Assert.Equal(bytes.Length, reader.StreamOffset);
        Assert.Equal(StreamPhase.End, reader.State.Phase);
        Assert.Equal("none", reader.State.MachineType);
        Assert.Equal(4, reader.PageRecords);
        Assert.Equal(2, reader.ZeroPageRecords);
    }

    [Fact]
    public void HeaderBytesAreAsDescribed()
    {
        byte[] bytes = Convert.FromHexString("5145564d0000000307000000046e6f6e65" + "0800010000" + "080002000400000001");
        using QemuStreamReader reader = Streams.Reader(bytes);
        Assert.Equal(StreamKind.Main, reader.Detect());
        Assert.Equal(StreamRecordKind.Configuration, reader.ReadNext());
        Assert.Equal(StreamRecordKind.OpenReturnPath, reader.ReadNext());
        Assert.Equal(StreamRecordKind.Ping, reader.ReadNext());
        Assert.Equal(1u, reader.PingValue);
    }

    [Fact]
    public void ConfigurationSubsectionsAreRead()
    {
        byte[] uuid = [.. Enumerable.Range(1, 16).Select(i => (byte)i)];
        byte[] bytes = new WireBytes().Header("pc-i440fx-7.2")
            .U8(5).Name("configuration/target-page-bits").U32(1).U32(14)
            .U8(5).Name("configuration/uuid").U32(1).Raw(uuid)
            .Command(1).Advise(0x4000, 0x4000).ToArray();
        using QemuStreamReader reader = Streams.Reader(bytes);
        reader.ReadTo(StreamRecordKind.PostcopyAdvise);
        Assert.Equal(0x4000, reader.State.TargetPageSize);
        Assert.Equal(new Guid("01020304-0506-0708-090a-0b0c0d0e0f10"), reader.State.Uuid);
        Assert.Equal("pc-i440fx-7.2", reader.State.MachineType);
    }

    [Fact]
    public void PageSizeOnTheWireIsToldFromTheNextNameAndTheNextRecord()
    {
        byte[] bytes = new WireBytes().Begin(
            ("first", 0x200000, 0x200000), ("small", 0x1000, null), ("mid", 0x400000, 0x200000), ("end", 0x200000, 0x200000)).ToArray();
        using QemuStreamReader reader = Streams.Reader(bytes);
        reader.ReadTo(StreamRecordKind.SectionEnd);
        Assert.Equal(
            ["first 200000 200000", "small 1000 1000", "mid 400000 200000", "end 200000 200000"],
            reader.State.Blocks.Select(b => $"{b.Name} {b.Length:x} {b.PageSize:x}"));
        Assert.Equal([0, 1, 2, 3], reader.State.Blocks.Select(b => b.Index));
    }

    [Fact]
    public void OnlyBlockWithoutPageSizeHasTheHostPage()
    {
        using QemuStreamReader reader = Streams.Reader(new WireBytes().Begin(("only", 0x200000, null)).ToArray());
        reader.ReadTo(StreamRecordKind.SectionEnd);
        Assert.Equal(4096, Assert.Single(reader.State.Blocks).PageSize);
    }

    [Fact]
    public void CompressedPageIsUnpacked()
    {
        byte[] content = new byte[4096];
        new Random(1).NextBytes(content.AsSpan(0, 1000));
        using MemoryStream packed = new();
        using (ZLibStream zlib = new(packed, CompressionLevel.Fastest, leaveOpen: true))
        {
            zlib.Write(content);
        }

        byte[] zip = packed.ToArray();
        byte[] bytes = new WireBytes().Begin(("a", 0x200000, null)).Part()
            .NamedPage("a", 0, 1)
            .U64(0x1000 | WireBytes.Compress | WireBytes.Continue).U32((uint)zip.Length).Raw(zip)
            .U64(0x2000 | WireBytes.Compress).Name("a").U32((uint)zip.Length).Raw(zip)
            .Finish().ToArray();
        using QemuStreamReader reader = Streams.Reader(bytes);
        reader.ReadTo(StreamRecordKind.Page);
        foreach (long offset in (long[])[0x1000, 0x2000])
        {
            Assert.Equal(StreamRecordKind.Page, reader.ReadNext());
            Assert.Equal(offset, reader.PageOffset);
            Assert.True(Streams.Content(reader).SequenceEqual(content));
        }

        Assert.Equal(StreamRecordKind.SectionEnd, reader.ReadNext());
    }

    [Fact]
    public void XbzrleDeltaIsHandedOutInPrecopy()
    {
        byte[] delta = [0x02, 0x01, 0xee];
        byte[] bytes = new WireBytes().Begin(("a", 0x2000, null)).Part()
            .U64(0x1000 | WireBytes.Xbzrle).Name("a").U8(1).U16(delta.Length).Raw(delta).Finish().ToArray();
        using QemuStreamReader reader = Streams.Reader(bytes);
        reader.ReadTo(StreamRecordKind.XbzrlePage);
        Assert.Equal(0x1000, reader.PageOffset);
        Assert.True(Streams.Content(reader).SequenceEqual(delta));
    }

    [Fact]
    public void SwitchoverStartAndMultifdFlushArePassedOver()
    {
        byte[] bytes = new WireBytes().Begin(("a", 0x1000, null))
            .Part().U64(0x200).Finish()
            .Command(11).Discard("a", (0, 0x1000)).Package(null, 3, 0x42)
            .Part().NamedPage("a", 0, 9).Finish().End().Finish().U8(0).ToArray();
        using QemuStreamReader reader = Streams.Reader(bytes);
        reader.ReadTo(StreamRecordKind.Package);
        Assert.Equal([3u, 0x42u], reader.Package!.Pings);
        Assert.True(reader.Package.HasPointOfNoReturn);
        Assert.Equal(["Page a 0 09", "SectionEnd", "SectionEnd", "EndOfStream"], reader.ReadAll());
    }

    [Fact]
    public void HugePageIsOneRunPerChannelAndMayContinueAfterOtherSections()
    {
        WireBytes wire = new WireBytes().Begin(("h", 0x200000, 0x200000)).Package().Part();
        wire.NamedPage("h", 0, 1);
        for (ulong page = 1; page < 512; page++)
        {
            if (page == 100)
            {
                wire.Finish().Part();
            }

            _ = page % 2 == 0 ? wire.NextPage(page << 12, 1) : wire.NextZero(page << 12);
        }

        using QemuStreamReader reader = Streams.Reader(wire.Finish().End().Finish().U8(0).ToArray());
        Assert.Equal("EndOfStream", reader.ReadAll()[^1]);
        Assert.Equal(256, reader.PageRecords);
        Assert.Equal(256, reader.ZeroPageRecords);
    }

    [Fact]
    public void UrgentChannelHasRecordsOnlyAndItsOwnPreviousBlock()
    {
        MigrationStreamState state = RunningState(("a", 0x2000, null), ("b", 0x2000, null));
        byte[] bytes = new WireBytes().NamedPage("b", 0x1000, 7).NextZero(0).NamedPage("a", 0, 8).U64(WireBytes.Eos).ToArray();
        using QemuStreamReader reader = Streams.Reader(bytes, state, chunk: 3);
        Assert.Equal(StreamKind.Urgent, reader.Detect());
        Assert.Equal(["Page b 1000 07", "ZeroPage b 0", "Page a 0 08", "EndOfStream"], reader.ReadAll());
    }

    [Fact]
    public void RecoveryStreamBeginsWithCommands()
    {
        MigrationStreamState state = RunningState(("a", 0x2000, null));
        byte[] bytes = new WireBytes().Command(10, [1, (byte)'a']).Command(9)
            .Part().NamedPage("a", 0, 7).Finish().End().Finish().U8(0).ToArray();
        using QemuStreamReader reader = Streams.Reader(bytes, state);
        Assert.Equal(StreamKind.Recovery, reader.Detect());
        Assert.Equal(
            ["ReceivedBitmapRequest a", "PostcopyResume", "Page a 0 07", "SectionEnd", "SectionEnd", "EndOfStream"], reader.ReadAll());
    }

    [Fact]
    public void BufferedReadsStopWithoutATraceAndKeepAddressesValid()
    {
        byte[] bytes = new WireBytes().Begin(("a", 0x10000, null)).Package().Part()
            .NamedPage("a", 0, 1).NextPage(0x1000, 2).NextZero(0x2000).NextPage(0x3000, 3).Finish().ToArray();
        using QemuStreamReader reader = Streams.Reader(bytes);
        reader.ReadTo(StreamRecordKind.Page);
        List<(nuint Data, long Offset)> gathered = [(reader.Data, reader.PageOffset)];
        while (reader.TryReadBuffered() is StreamRecordKind.Page or StreamRecordKind.ZeroPage)
        {
            gathered.Add((reader.Data, reader.PageOffset));
        }

        Assert.Equal([0, 0x1000, 0x2000, 0x3000], gathered.Select(g => g.Offset));
        byte[] expected = [1, 2, 0, 3];
        for (int i = 0; i < gathered.Count; i++)
        {
            unsafe
            {
                Assert.Equal(expected[i], gathered[i].Data == 0 ? 0 : *(byte*)gathered[i].Data);
            }
        }
    }

    [Fact]
    public void EveryCutBetweenBufferedReadsGivesTheSameRecords()
    {
        byte[] bytes = SmallMigration();
        using QemuStreamReader reader = Streams.Reader(bytes, chunk: 1000);
        List<string> kinds = [];
        string last = "";
        while (last != "EndOfStream")
        {
            StreamRecordKind kind = reader.TryReadBuffered();
            last = $"{(kind == StreamRecordKind.None ? reader.ReadNext() : kind)}";
            kinds.Add(last);
        }

        Assert.Equal(s_smallMigrationRecords.Select(r => r.Split(' ')[0]), kinds);
    }

    internal static MigrationStreamState RunningState(params (string Name, ulong Length, ulong? PageSize)[] blocks)
    {
        MigrationStreamState state = new();
        using QemuStreamReader reader = Streams.Reader(new WireBytes().Begin(blocks).Package().ToArray(), state);
        reader.ReadTo(StreamRecordKind.Package);
        return state;
    }
}
