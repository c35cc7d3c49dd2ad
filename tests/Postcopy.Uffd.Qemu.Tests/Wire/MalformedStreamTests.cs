using Case = (string Name, byte[] Stream, long Offset, string Expected, string Actual);

namespace Postcopy.Uffd.Qemu.Tests.Wire;

/// <summary>Everything a peer can get wrong, with the place and the words of the error.</summary>
public sealed class MalformedStreamTests
{
    private const int AfterHeader = 17;

    public static TheoryData<string> Names => [.. s_cases.Value.Select(c => c.Name)];

    private static readonly Lazy<List<Case>> s_cases = new(() => [.. Cases()]);

    [Theory]
    [MemberData(nameof(Names))]
    public void IsRefusedAtItsPlace(string name)
    {
        Case c = s_cases.Value.Single(x => x.Name == name);
        using QemuStreamReader reader = Streams.Reader(c.Stream);
        MigrationStreamException e = Assert.Throws<MigrationStreamException>(() => reader.ReadAll());
        Assert.Equal(c.Offset, e.StreamOffset);
        Assert.Contains(c.Expected, e.Expected, StringComparison.Ordinal);
        Assert.Contains(c.Actual, e.Actual, StringComparison.Ordinal);
        Assert.Contains($"byte {c.Offset}", e.Message, StringComparison.Ordinal);
    }

    private static IEnumerable<Case> Cases()
    {
        // Header and configuration.
        yield return ("magic", new WireBytes().U32(0x47455420).U32(3).ToArray(), 0, "QEVM", "0x47455420");
        yield return ("version", new WireBytes().U32(0x5145564d).U32(2).U8(7).U32(1).ToArray(), 4, "version 3", "2");
        yield return ("no configuration", new WireBytes().U32(0x5145564d).U32(3).U8(1).U32(1).ToArray(), 8, "configuration record 0x07", "0x01");
        yield return ("machine type too long", new WireBytes().U32(0x5145564d).U32(3).U8(7).U32(256).ToArray(), 9, "1 to 255", "256");
        yield return ("machine type empty", new WireBytes().U32(0x5145564d).U32(3).U8(7).U32(0).ToArray(), 9, "1 to 255", "0");
        yield return ("machine type not text", new WireBytes().U32(0x5145564d).U32(3).U8(7).U32(1).U8(0xff).ToArray(), 13, "UTF-8", "other");
        yield return ("unknown subsection", new WireBytes().Header().U8(5).Name("configuration/x").U32(1).ToArray(), AfterHeader + 1, "target-page-bits", "configuration/x");
        yield return ("subsection version", new WireBytes().Header().U8(5).Name("configuration/uuid").U32(2).ToArray(), AfterHeader + 20, "version of configuration/uuid 1", "2");
        yield return ("page bits", new WireBytes().Header().U8(5).Name("configuration/target-page-bits").U32(1).U32(17).ToArray(), AfterHeader + 36, "12 to 16", "17");
        yield return ("page bits twice", new WireBytes().Header().U8(5).Name("configuration/target-page-bits").U32(1).U32(12).U8(5).Name("configuration/target-page-bits").U32(1).U32(12).ToArray(), AfterHeader + 76, "once", "again");
        yield return ("ignore-shared", new WireBytes().Header().U8(5).Name("configuration/capabilities").U32(1).U32(1).Name("x-ignore-shared").ToArray(), AfterHeader + 36, "excludes postcopy", "x-ignore-shared");
        yield return ("capability flood", new WireBytes().Header().U8(5).Name("configuration/capabilities").U32(1).U32(65).ToArray(), AfterHeader + 32, "at most 64", "65");

        // Records and commands.
        yield return ("unknown record", new WireBytes().Header().U8(0x55).ToArray(), AfterHeader, "a section, a command or EOF", "0x55");
        yield return ("second configuration", new WireBytes().Header().U8(7).ToArray(), AfterHeader, "a section", "0x07");
        yield return ("command 0", new WireBytes().Header().Command(0).ToArray(), AfterHeader + 1, "between 1 and 11", "0");
        yield return ("command 12", new WireBytes().Header().Command(12).ToArray(), AfterHeader + 1, "between 1 and 11", "12");
        yield return ("colo", new WireBytes().Header().Command(8).ToArray(), AfterHeader, "no COLO", "ENABLE_COLO");
        yield return ("ping length", new WireBytes().Header().Command(2, 1, 2, 3).ToArray(), AfterHeader + 3, "length 4", "3");
        yield return ("return path twice", new WireBytes().Header().Command(1).Command(1).ToArray(), AfterHeader + 5, "once", "OPEN_RETURN_PATH");
        yield return ("advise for bitmaps only", new WireBytes().Header().Command(3).ToArray(), AfterHeader + 3, "length 16", "dirty bitmaps only");
        yield return ("advise target page", new WireBytes().Header().Advise(0x1000, 0x2000).ToArray(), AfterHeader + 13, "4096", "8192");
        yield return ("advise odd sizes", new WireBytes().Header().Advise(0x1001).ToArray(), AfterHeader + 5, "multiples of 4096", "0x1001");
        yield return ("advise twice", new WireBytes().Header().Advise().Advise().ToArray(), AfterHeader + 21, "once", "Advise");
        yield return ("listen outside", new WireBytes().Header().Advise().Command(4).ToArray(), AfterHeader + 21, "inside the package", "POSTCOPY_LISTEN");
        yield return ("run outside", new WireBytes().Header().Advise().Command(5).ToArray(), AfterHeader + 21, "inside the package", "POSTCOPY_RUN");
        yield return ("resume without break", new WireBytes().Header().Command(9).ToArray(), AfterHeader, "after a reconnect", "POSTCOPY_RESUME");
        yield return ("discard before blocks", new WireBytes().Header().Advise().Discard("a", (0, 4096)).ToArray(), AfterHeader + 21, "after the block list", "DISCARD");
        yield return ("package before advise", new WireBytes().Header().Package().ToArray(), AfterHeader, "after POSTCOPY_ADVISE", "PACKAGED in phase None");

        // Sections.
        yield return ("ram before advise", new WireBytes().Header().U8(1).U32(2).Name("ram").U32(0).U32(4).ToArray(), AfterHeader, "POSTCOPY_ADVISE", "postcopy-ram is off");
        yield return ("other section", new WireBytes().Header().Advise().U8(1).U32(3).Name("dirty-bitmap").U32(0).U32(1).ToArray(), AfterHeader + 21, "only the ram section", "dirty-bitmap");
        yield return ("device in precopy", new WireBytes().Header().Advise().U8(4).U32(3).Name("timer").U32(0).U32(2).ToArray(), AfterHeader + 21, "switch to postcopy", "completes in precopy");
        yield return ("ram instance", new WireBytes().Header().Advise().U8(1).U32(2).Name("ram").U32(1).U32(4).ToArray(), AfterHeader + 30, "instance 0", "1");
        yield return ("ram version", new WireBytes().Header().Advise().U8(1).U32(2).Name("ram").U32(0).U32(3).ToArray(), AfterHeader + 34, "version 4", "3");
        yield return ("part before start", new WireBytes().Header().Advise().Part().ToArray(), AfterHeader + 22, "was started", "id 2");
        yield return ("section name empty", new WireBytes().Header().Advise().U8(1).U32(2).U8(0).U32(0).U32(4).ToArray(), AfterHeader + 26, "1 to 255", "length 0");

        // From here on behind a block list: "a" of three pages, "b" of two.
        static WireBytes Begun() => new WireBytes().Begin(("a", 0x3000, null), ("b", 0x2000, null));
        int begun = Begun().Length;
        yield return ("other section id", Begun().U8(2).U32(7).ToArray(), begun + 1, "section id 2", "7");
        yield return ("start twice", Begun().U8(1).U32(2).Name("ram").U32(0).U32(4).ToArray(), begun, "once", "second start");
        yield return ("footer missing", Begun().Part().U64(WireBytes.Eos).U8(8).U32(2).ToArray(), begun + 13, "footer 0x7e", "0x08");
        yield return ("footer id", Begun().Part().U64(WireBytes.Eos).Footer(3).ToArray(), begun + 14, "section id 2", "3");
        yield return ("precopy end", Begun().End().ToArray(), begun, "switch to postcopy", "completes in precopy");
        yield return ("eof in precopy", Begun().U8(0).ToArray(), begun, "switch to postcopy", "EOF in phase Advise");
        yield return ("vm description", Begun().U8(6).ToArray(), begun, "a section", "0x06");

        // RAM records.
        int body = begun + 5;
        yield return ("continue first", Begun().Part().U64(WireBytes.Page | WireBytes.Continue).ToArray(), body, "named page", "CONTINUE");
        yield return ("unknown block", Begun().Part().U64(WireBytes.Page).Name("zz").ToArray(), body + 8, "RAM block", "'zz'");
        yield return ("block name empty", Begun().Part().U64(WireBytes.Page).U8(0).ToArray(), body + 8, "1 to 255", "length 0");
        yield return ("page outside", Begun().Part().NamedPage("a", 0x3000, 1).ToArray(), body, "inside 'a'", "0x3000");
        yield return ("page far outside", Begun().Part().NamedPage("a", 0xfffffffffffff000, 1).ToArray(), body, "inside 'a'", "0xfffffffffffff000");
        yield return ("zero fill", Begun().Part().U64(WireBytes.Zero).Name("a").U8(1).ToArray(), body + 10, "fill byte 0", "0x01");
        yield return ("flag FULL", Begun().Part().U64(1).ToArray(), body, "a page", "0x001");
        yield return ("flag HOOK", Begun().Part().U64(0x80).ToArray(), body, "a page", "0x080");
        yield return ("no flag", Begun().Part().U64(0).ToArray(), body, "a page", "0x000");
        yield return ("two flags", Begun().Part().U64(WireBytes.Page | WireBytes.Zero).ToArray(), body, "a page", "0x00a");
        yield return ("eos with offset", Begun().Part().U64(0x1000 | WireBytes.Eos).ToArray(), body, "a page", "0x010");
        yield return ("second block list", Begun().Part().U64(0x1000 | WireBytes.MemSize).ToArray(), body, "once", "another block list");
        yield return ("packed length 0", Begun().Part().U64(WireBytes.Compress).Name("a").U32(0).ToArray(), body + 10, "1 to", "0");
        yield return ("packed too long", Begun().Part().U64(WireBytes.Compress).Name("a").U32(0x10000).ToArray(), body + 10, "1 to", "65536");
        yield return ("packed garbage", Begun().Part().U64(WireBytes.Compress).Name("a").U32(4).U32(0x01020304).ToArray(), body + 14, "zlib", "other data");
        yield return ("delta encoding", Begun().Part().U64(WireBytes.Xbzrle).Name("a").U8(2).U16(1).U8(1).ToArray(), body + 10, "XBZRLE encoding 0x01", "0x02");
        yield return ("delta too long", Begun().Part().U64(WireBytes.Xbzrle).Name("a").U8(1).U16(4097).ToArray(), body + 11, "at most 4096", "4097");

        // Discards.
        yield return ("discard version", Begun().Command(6, [1, 1, (byte)'a', 0, .. new byte[16]]).ToArray(), begun + 5, "version 0x00", "0x01");
        yield return ("discard block", Begun().Discard("q", (0, 0x1000)).ToArray(), begun + 6, "RAM block", "'q'");
        yield return ("discard terminator", Begun().Command(6, [0, 1, (byte)'a', 1, .. new byte[16]]).ToArray(), begun + 8, "terminator", "0x01");
        yield return ("discard nothing", Begun().Discard("a").ToArray(), begun + 9, "one or more", "0 bytes");
        yield return ("discard torn range", Begun().Command(6, [0, 1, (byte)'a', 0, .. new byte[15]]).ToArray(), begun + 9, "one or more", "15 bytes");
        yield return ("discard too short", Begun().Command(6, [0, 9, (byte)'a', 0]).ToArray(), begun + 7, "9 bytes for block name", "only 2");
        yield return ("discard unaligned", Begun().Discard("a", (0x800, 0x1000)).ToArray(), begun + 9, "whole pages of 4096", "0x800");
        yield return ("discard empty range", Begun().Discard("a", (0, 0)).ToArray(), begun + 9, "whole pages", "0x0 + 0x0");
        yield return ("discard outside", Begun().Discard("b", (0x1000, 0x2000)).ToArray(), begun + 9, "inside 'b'", "0x1000 + 0x2000");
        yield return ("discard overflow", Begun().Discard("b", (0x1000, 0xfffffffffffff000)).ToArray(), begun + 9, "inside 'b'", "0xfffffffffffff000");
        yield return ("page after discard", Begun().Discard("a", (0, 0x1000)).Part().NamedPage("a", 0, 1).ToArray(), begun + 25 + 5, "no page between", "phase Discard");

        // Package.
        yield return ("package too long", Begun().Command(7, 0xff, 0, 0, 0).ToArray(), begun + 5, "a package of 10 to", "4278190080");
        yield return ("package too short", Begun().Command(7, 0, 0, 0, 9).ToArray(), begun + 5, "a package of 10 to", "9");
        yield return ("package without listen", Begun().Command(7, 0, 0, 0, 10).Command(5).Command(5).ToArray(), begun + 9, "POSTCOPY_LISTEN", "0800050000");
        yield return ("package without run", Begun().Command(7, 0, 0, 0, 10).Command(4).Command(4).ToArray(), begun + 14, "POSTCOPY_RUN", "0800040000");

        // Postcopy.
        static WireBytes Switched() => Begun().Discard("a", (0, 0x3000)).Package();
        int switched = Switched().Length;
        yield return ("second package", Switched().Package().ToArray(), switched, "before the switch", "phase Running");
        yield return ("discard after switch", Switched().Discard("a", (0, 0x1000)).ToArray(), switched, "before the switch", "phase Running");
        yield return ("delta in postcopy", Switched().Part().U64(WireBytes.Xbzrle).Name("a").U8(1).U16(1).U8(1).ToArray(), switched + 5, "whole pages", "XBZRLE");
        yield return ("eof before end", Switched().U8(0).ToArray(), switched, "end of the ram section", "EOF");
        yield return ("part after end", Switched().End().Finish().Part().ToArray(), switched + 18, "EOF", "another part");
        yield return ("device after package", Switched().U8(4).U32(3).Name("timer").U32(0).U32(2).ToArray(), switched, "only the ram section", "timer");

        // Huge pages.
        static WireBytes Huge() => new WireBytes().Begin(("h", 0x400000, 0x200000), ("s", 0x1000, null)).Package().Part();
        int huge = Huge().Length;
        yield return ("huge page from its middle", Huge().NamedPage("h", 0x1000, 1).ToArray(), huge, "first page of a host page", "0x1000");
        yield return ("huge page with a gap", Huge().NamedZero("h", 0).NextZero(0x2000).ToArray(), huge + 11, "offset 0x1000", "0x2000");
        yield return ("huge page interrupted", Huge().NamedZero("h", 0).NamedZero("s", 0).ToArray(), huge + 11, "rest of the host page", "'s'");
        yield return ("huge page torn at eof", Huge().NamedZero("h", 0).Finish().End().Finish().U8(0).ToArray(), huge + 11 + 13 + 18, "rest of the host page", "EOF");

        // Block lists.
        static WireBytes Ready(ulong sizes = 0x1000) => new WireBytes().Header().Advise(sizes).U8(1).U32(2).Name("ram").U32(0).U32(4);
        int list = Ready().Length;
        yield return ("no block list", Ready().U64(WireBytes.Eos).Footer().ToArray(), list + 8, "block list", "its end");
        yield return ("total 0", Ready().U64(WireBytes.MemSize).ToArray(), list, "1 page to", "0");
        yield return ("total too large", Ready().U64((1UL << 60) | WireBytes.MemSize).ToArray(), list, "1 page to", "1152921504606846976");
        yield return ("block name twice", Ready().BlockList(("a", 0x1000, null), ("a", 0x1000, null)).U64(WireBytes.Eos).ToArray(), list + 8 + 10, "once", "'a' again");
        yield return ("block name not text", Ready().U64(0x1000 | WireBytes.MemSize).U8(1).U8(0xc0).U64(0x1000).U64(WireBytes.Eos).ToArray(), list + 8, "UTF-8", "other");
        yield return ("block longer than total", Ready().U64(0x1000 | WireBytes.MemSize).Name("a").U64(0x2000).U64(WireBytes.Eos).ToArray(), list + 10, "at most 4096", "8192");
        yield return ("block length odd", Ready().U64(0x2000 | WireBytes.MemSize).Name("a").U64(0x1800).U64(WireBytes.Eos).ToArray(), list + 10, "whole pages", "6144");
        yield return ("block length 0", Ready().U64(0x2000 | WireBytes.MemSize).Name("a").U64(0).U64(WireBytes.Eos).ToArray(), list + 10, "whole pages", "0");
        yield return ("page size no power", Ready().U64(0x6000 | WireBytes.MemSize).Name("a").U64(0x6000).U64(0x3000).ToArray(), list + 18, "power of two", "12288");
        yield return ("length no multiple of page size", Ready(0x200000).U64(0x201000 | WireBytes.MemSize).Name("a").U64(0x201000).U64(0x200000).ToArray(), list + 18, "divides", "2097152");
        yield return ("page sizes unlike advise", Ready(0x200000).BlockList(("a", 0x1000, null)).U64(WireBytes.Eos).ToArray(), list + 8 + 10, "0x200000", "0x1000");
    }
}
