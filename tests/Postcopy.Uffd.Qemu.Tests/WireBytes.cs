using System.Buffers.Binary;
using System.Text;

namespace Postcopy.Uffd.Qemu.Tests;

/// <summary>Builds streams by hand from the wire's description, so that reader and writer are not only tested on each other.</summary>
internal sealed class WireBytes
{
    internal const ulong Zero = 0x002;
    internal const ulong MemSize = 0x004;
    internal const ulong Page = 0x008;
    internal const ulong Eos = 0x010;
    internal const ulong Continue = 0x020;
    internal const ulong Xbzrle = 0x040;
    internal const ulong Compress = 0x100;

    private readonly List<byte> _bytes = [];

    internal int Length => _bytes.Count;

    internal byte[] ToArray() => [.. _bytes];

    internal WireBytes Raw(params byte[] bytes)
    {
        _bytes.AddRange(bytes);
        return this;
    }

    internal WireBytes U8(byte value) => Raw(value);

    internal WireBytes U16(int value)
    {
        Span<byte> b = stackalloc byte[2];
        BinaryPrimitives.WriteUInt16BigEndian(b, (ushort)value);
        return Raw(b.ToArray());
    }

    internal WireBytes U32(uint value)
    {
        Span<byte> b = stackalloc byte[4];
        BinaryPrimitives.WriteUInt32BigEndian(b, value);
        return Raw(b.ToArray());
    }

    internal WireBytes U64(ulong value)
    {
        Span<byte> b = stackalloc byte[8];
        BinaryPrimitives.WriteUInt64BigEndian(b, value);
        return Raw(b.ToArray());
    }

    internal WireBytes Name(string name)
    {
        byte[] bytes = Encoding.UTF8.GetBytes(name);
        return U8((byte)bytes.Length).Raw(bytes);
    }

    internal WireBytes Header(string machine = "none") =>
        U32(0x5145564d).U32(3).U8(0x07).U32((uint)machine.Length).Raw(Encoding.ASCII.GetBytes(machine));

    internal WireBytes Command(int number, params byte[] payload) => U8(0x08).U16(number).U16(payload.Length).Raw(payload);

    internal WireBytes Ping(uint value) => Command(2, new WireBytes().U32(value).ToArray());

    internal WireBytes Advise(ulong sizes = 0x1000, ulong target = 0x1000) =>
        Command(3, new WireBytes().U64(sizes).U64(target).ToArray());

    internal WireBytes Start(params (string Name, ulong Length, ulong? PageSize)[] blocks)
    {
        U8(0x01).U32(2).Name("ram").U32(0).U32(4);
        return BlockList(blocks).U64(Eos).Footer();
    }

    internal WireBytes BlockList(params (string Name, ulong Length, ulong? PageSize)[] blocks)
    {
        U64(blocks.Aggregate(0UL, (sum, b) => sum + b.Length) | MemSize);
        foreach ((string name, ulong length, ulong? pageSize) in blocks)
        {
            Name(name).U64(length);
            if (pageSize is { } size)
            {
                U64(size);
            }
        }

        return this;
    }

    internal WireBytes Part() => U8(0x02).U32(2);

    internal WireBytes End() => U8(0x03).U32(2);

    internal WireBytes Footer(uint id = 2) => U8(0x7e).U32(id);

    internal WireBytes Finish() => U64(Eos).Footer();

    internal WireBytes Discard(string block, params (ulong Start, ulong Length)[] ranges)
    {
        WireBytes payload = new WireBytes().U8(0).Name(block).U8(0);
        foreach ((ulong start, ulong length) in ranges)
        {
            payload.U64(start).U64(length);
        }

        return Command(6, payload.ToArray());
    }

    internal WireBytes Package(byte[]? devices = null, params uint[] pings)
    {
        WireBytes package = new WireBytes().Command(4).Raw(devices ?? []);
        foreach (uint ping in pings)
        {
            package.Ping(ping);
        }

        package.Command(5);
        return Command(7, new WireBytes().U32((uint)package.Length).ToArray()).Raw(package.ToArray());
    }

    internal WireBytes NamedPage(string block, ulong offset, byte fill) => U64(offset | Page).Name(block).Raw(Filled(fill));

    internal WireBytes NextPage(ulong offset, byte fill) => U64(offset | Page | Continue).Raw(Filled(fill));

    internal WireBytes NamedZero(string block, ulong offset) => U64(offset | Zero).Name(block).U8(0);

    internal WireBytes NextZero(ulong offset) => U64(offset | Zero | Continue).U8(0);

    /// <summary>Header, return path, advise, and blocks of 4 KiB pages.</summary>
    internal WireBytes Begin(params (string Name, ulong Length, ulong? PageSize)[] blocks) =>
        Header().Command(1).Ping(1).Advise(blocks.Aggregate(0UL, (or, b) => or | (b.PageSize ?? 0x1000))).Start(blocks);

    internal static byte[] Filled(byte fill)
    {
        byte[] page = new byte[4096];
        Array.Fill(page, fill);
        return page;
    }
}
