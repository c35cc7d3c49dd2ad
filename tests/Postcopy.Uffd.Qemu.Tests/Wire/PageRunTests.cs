namespace Postcopy.Uffd.Qemu.Tests.Wire;

/// <summary>Neighbouring pages are received and taken together; what comes out is what went in, however wrong the guesses were.</summary>
public sealed class PageRunTests
{
    private const int Pages = 3000;

    [Theory]
    [InlineData(1, 777, 0)]
    [InlineData(2, 4104, 100)]
    [InlineData(3, 100_000, 100)]
    [InlineData(4, int.MaxValue, 50)]
    public void GuessedHeadsChangeNothingOfWhatIsRead(int seed, int chunk, int guessed)
    {
        byte[] bytes = Stream(new Random(seed), out List<string> sent);

        using QemuStreamReader reader = Streams.Reader(bytes, chunk: chunk);
        List<string> read = [.. reader.ReadAll().Where(r => r.StartsWith("Page") || r.StartsWith("ZeroPage"))];

        Assert.Equal(sent, read);
        Assert.True(reader.ScatteredPages >= guessed, $"{reader.ScatteredPages} pages came where they were expected.");
        Assert.Equal(bytes.Length, reader.StreamOffset);
    }

    [Theory]
    [InlineData(5, 60_000)]
    [InlineData(6, int.MaxValue)]
    public void RunsAreTheSameAsTheirPages(int seed, int chunk)
    {
        byte[] bytes = Stream(new Random(seed), out List<string> sent);

        using QemuStreamReader reader = Streams.Reader(bytes, chunk: chunk);
        List<string> read = [];
        int longest = 0;
        for (StreamRecordKind kind = reader.ReadNext(); kind != StreamRecordKind.EndOfStream; kind = reader.ReadNext())
        {
            if (kind is StreamRecordKind.Page or StreamRecordKind.ZeroPage)
            {
                int more = kind == StreamRecordKind.ZeroPage ? reader.TakeZeroRun() : reader.TakePageRun(int.MaxValue);
                longest = Math.Max(longest, more);
                read.AddRange(Enumerable.Range(0, 1 + more).Select(i => Word(kind, reader, i)));
            }
        }

        Assert.Equal(sent, read);
        Assert.True(longest > 20, $"The longest run had {longest} pages.");
        Assert.Equal((sent.Count(r => r.StartsWith("Page")), sent.Count(r => r.StartsWith("Zero"))), ((int)reader.PageRecords, (int)reader.ZeroPageRecords));
    }

    [Fact]
    public void PagesGoToWhereTheyAreWanted()
    {
        WireBytes wire = new WireBytes().Begin(("a", Pages << 12, null)).Package().Part().NamedPage("a", 0, 1);
        for (int page = 1; page < 200; page++)
        {
            wire.NextPage((ulong)page << 12, (byte)page);
        }

        using Room room = new(200);
        using QemuStreamReader reader = Streams.Reader(wire.Finish().End().Finish().Raw(0).ToArray(), chunk: 50_000);
        reader.Target = room;
        int there = 0;
        for (StreamRecordKind kind = reader.ReadNext(); kind != StreamRecordKind.EndOfStream; kind = reader.ReadNext())
        {
            if (kind == StreamRecordKind.Page && reader.PageOffset > 0)
            {
                Assert.Equal((byte)(reader.PageOffset >> 12), Streams.Content(reader)[4095]);
                there += reader.Data == room.Address + (nuint)reader.PageOffset ? 1 : 0;
            }
        }

        Assert.InRange(there, 100, 199);
        Assert.Equal(there, reader.ScatteredPages);
    }

    [Fact]
    public void ARunEndsWhereItsBlockEnds()
    {
        WireBytes wire = new WireBytes().Begin(("a", 40 << 12, null), ("b", 40 << 12, null)).Package().Part().NamedPage("a", 0, 1);
        for (int page = 1; page < 40; page++)
        {
            wire.NextPage((ulong)page << 12, 1);
        }

        wire.NextPage(40 << 12, 1);
        using QemuStreamReader pages = Streams.Reader(wire.ToArray(), chunk: 20_000);
        MigrationStreamException beyond = Assert.Throws<MigrationStreamException>(pages.ReadAll);
        Assert.Contains("inside 'a'", beyond.Message);

        WireBytes zeros = new WireBytes().Begin(("a", 40 << 12, null)).Package().Part().NamedZero("a", 38 << 12).NextZero(39 << 12).NextZero(40 << 12);
        using QemuStreamReader zero = Streams.Reader(zeros.ToArray());
        zero.ReadTo(StreamRecordKind.ZeroPage);
        Assert.Equal(1, zero.TakeZeroRun());
        Assert.Throws<MigrationStreamException>(() => zero.ReadNext());
    }

    [Fact]
    public void AConnectionThatEndsInsideARunSaysWhere()
    {
        byte[] bytes = Stream(new Random(7), out _);
        using QemuStreamReader reader = Streams.Reader(bytes[..(bytes.Length / 2)], chunk: 9000);

        MigrationConnectionException lost = Assert.Throws<MigrationConnectionException>(reader.ReadAll);

        Assert.Equal(bytes.Length / 2, lost.StreamOffset);
        Assert.Equal(ConnectionLossReason.ClosedByPeer, lost.Reason);
    }

    private static unsafe string Word(StreamRecordKind kind, QemuStreamReader reader, int i) => kind == StreamRecordKind.ZeroPage
        ? $"ZeroPage {reader.Block!.Name} {reader.PageOffset + (i << 12):x}"
        : $"Page {reader.Block!.Name} {reader.PageOffset + (i << 12):x} {*(byte*)(reader.Data + (nuint)(i << 12)):x2}";

    /// <summary>Runs of both kinds, jumps inside a block and between two, and sections that end anywhere.</summary>
    private static byte[] Stream(Random random, out List<string> sent)
    {
        WireBytes wire = new WireBytes().Begin(("a", Pages << 12, null), ("b", Pages << 12, null)).Package().Part();
        sent = [];
        string last = "";
        while (sent.Count < Pages)
        {
            string block = random.Next(4) == 0 ? "b" : "a";
            int page = random.Next(Pages - 1);
            bool zero = random.Next(3) == 0;
            for (int run = random.Next(1, random.Next(1, 400)); run > 0 && page < Pages; run--, page++)
            {
                ulong offset = (ulong)page << 12;
                byte fill = (byte)random.Next(1, 256);
                bool named = block != last;
                _ = (zero, named) switch
                {
                    (true, true) => wire.NamedZero(block, offset),
                    (true, false) => wire.NextZero(offset),
                    (false, true) => wire.NamedPage(block, offset, fill),
                    _ => wire.NextPage(offset, fill),
                };
                sent.Add(zero ? $"ZeroPage {block} {offset:x}" : $"Page {block} {offset:x} {fill:x2}");
                last = block;
                if (random.Next(300) == 0)
                {
                    wire.Finish().Part();
                }
            }
        }

        return wire.Finish().End().Finish().Raw(0).ToArray();
    }

    private sealed unsafe class Room(int pages) : IPageTarget, IDisposable
    {
        internal nuint Address { get; } = (nuint)System.Runtime.InteropServices.NativeMemory.AllocZeroed((nuint)pages, 4096);

        public nuint TryTake(StreamRamBlock block, long offset, ref int expected)
        {
            expected = Math.Min(expected, pages - (int)(offset >> 12));
            return expected <= 0 ? 0 : Address + (nuint)offset;
        }

        public void Dispose() => System.Runtime.InteropServices.NativeMemory.Free((void*)Address);
    }
}
