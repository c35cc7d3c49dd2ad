using System.IO.Compression;
using System.Runtime.CompilerServices;
using System.Text;
using Postcopy.Uffd;
using Postcopy.Uffd.Qemu.Tests;

namespace Postcopy.Breaking.Tests;

/// <summary>
/// The inputs that mutations begin from, one file each in Fuzzing/Seeds: PARSER-what.bin. Those made here are written by
/// POSTCOPY_UPDATE=1; an input that once did harm is put beside them and stays.
/// </summary>
internal static class Seeds
{
    internal static string Folder { get; } = Path.Combine(AppContext.BaseDirectory, "Fuzzing/Seeds");

    /// <summary>Where they are kept.</summary>
    internal static string SourceFolder { get; } = Path.Combine(Path.GetDirectoryName(ThisFile())!, "Seeds");

    internal static byte[] BeforeTheSwitch() => new WireBytes()
        .Begin(("a", 0x3000, null), ("b/c@d", 0x2000, null))
        .Discard("a", (0, 0x3000)).Discard("b/c@d", (0, 0x2000))
        .Ping(2).Package([0x04, 0, 0, 0, 9, 1, (byte)'x', 0, 0, 0, 0, 0, 0, 0, 1, 0xaa, 0x7e, 0, 0, 0, 9], 3).Ping(4).ToArray();

    internal static IEnumerable<(string Name, byte[] Bytes)> Made()
    {
        yield return ("stream-migration", new WireBytes().Raw(BeforeTheSwitch())
            .Part().NamedPage("a", 0x1000, 0x22).NextPage(0x2000, 0x33).Finish().Part().NamedZero("a", 0).NextZero(0x1000).Finish()
            .Part().NamedZero("b/c@d", 0).NextPage(0x1000, 0x44).Finish().End().U64(WireBytes.Eos).Footer().U8(0).ToArray());
        yield return ("stream-precopy", new WireBytes().Begin(("a", 0x3000, null), ("b/c@d", 0x2000, null))
            .Part().NamedPage("a", 0, 0x11).NextZero(0x1000).Finish().Discard("a", (0x1000, 0x1000), (0x2000, 0x1000)).ToArray());
        yield return ("running-urgent", new WireBytes().NamedPage("b/c@d", 0x1000, 7).NextZero(0).NamedPage("a", 0, 8).U64(WireBytes.Eos).ToArray());
        yield return ("running-recovery", new WireBytes().Command(10, [1, (byte)'a']).Command(10, [5, .. "b/c@d"u8]).Command(9)
            .Part().NamedPage("a", 0, 7).NamedZero("b/c@d", 0x1000).Finish().End().Finish().U8(0).ToArray());
        yield return ("returnpath-all", new WireBytes()
            .U16(2).U16(4).U32(0x42)
            .U16(3).U16(14).U64(0x1000).U32(0x1000).Name("a").U16(4).U16(12).U64(0x2000).U32(0x1000)
            .U16(5).U16(2).Name("a").U64(8).U64(0x0500000000000000).U64(0x0123456789abcdef)
            .U16(0x5043).U16(14).U64(0x1000).U32(0x1000).Name("a").U16(6).U16(4).U32(1).U16(1).U16(4).U32(0).ToArray());
        yield return ("package-two", new WireBytes().Command(4)
            .U8(4).U32(3).Name("timer").U32(0).U32(2).Raw(1, 2, 3, 4, 5).Footer(3).U8(4).U32(4).Name("cpu").U32(1).U32(12).Raw(0x7e, 0, 0, 0, 9).Footer(4)
            .Ping(3).Ping(0x42).Command(5).ToArray());
        byte[] description = Encoding.UTF8.GetBytes("""
            {"configuration":{"vmsd_name":"configuration"},"page_size":4096,"devices":[{"name":"timer","instance_id":0,"vmsd_name":"timer","version":2,
            "fields":[{"name":"a","type":"int64","size":2},{"name":"b","array_len":3,"type":"uint8","size":1}]},{"name":"cpu","instance_id":1,"vmsd_name":"cpu",
            "version":12,"fields":[{"name":"regs","type":"struct","struct":{"vmsd_name":"r","version":1,"fields":[{"name":"x","type":"uint8","size":4}]},"size":4}],
            "subsections":[{"vmsd_name":"cpu/s","version":1,"fields":[{"name":"y","type":"uint8","size":1}]}]}]}
            """);
        yield return ("description-two", description);
        yield return ("trailer-two", new WireBytes().U8(0).U8(6).U32((uint)description.Length).Raw(description).ToArray());
        yield return ("xbzrle-runs", [2, 2, 0xaa, 0xbb, 1, 1, 0xcc, 0x80 | (3000 & 0x7f), 3000 >> 7, 1, 0x5a]);
        yield return ("zlib-page", Compressed());
        yield return ("handoff-two", new HandoffMessage(UffdFeatures.Poison, 65536, [Block("pc.ram", 0x7000_0000_0000), Block("second", 0x7100_0000_0000)], 3).Encode());
        yield return ("answer-no", new HandoffAnswer(false, "There is no room for it.").Encode());
        yield return ("firecracker-two", "[{\"base_host_virt_addr\":140000000000000,\"size\":1048576,\"offset\":0,\"page_size\":4096,\"page_size_kib\":4096},{\"base_host_virt_addr\":2097152,\"size\":2097152,\"offset\":1048576,\"page_size_kib\":2097152}]"u8.ToArray());
        yield return ("address-tcp", "tcp:[::1]:4444"u8.ToArray());
        yield return ("address-unix", "unix:/run/vm.sock"u8.ToArray());
    }

    private static HandoffBlock Block(string name, ulong address) =>
        new(name, new AddressRange((nuint)address, 1 << 20), PageSize.Host, 12288, UffdModes.Missing, UffdOperations.Copy | UffdOperations.Wake, HandoffState.HeaderBytes, -1, false);

    private static byte[] Compressed()
    {
        byte[] page = new byte[4096];
        for (int i = 0; i < page.Length; i++)
        {
            page[i] = (byte)(i % 61 == 0 ? i : i >> 6);
        }

        using MemoryStream packed = new();
        using (ZLibStream zlib = new(packed, CompressionLevel.Optimal))
        {
            zlib.Write(page);
        }

        return packed.ToArray();
    }

    private static string ThisFile([CallerFilePath] string path = "") => path;
}
