using System.Buffers.Binary;

namespace Postcopy.Uffd.Qemu;

/// <summary>Reads big-endian fields from bytes that are there completely; what does not fit is the peer's error.</summary>
internal ref struct WireReader
{
    private readonly ReadOnlySpan<byte> _bytes;
    private readonly long _origin;
    private readonly string? _section;
    private int _position;

    internal WireReader(ReadOnlySpan<byte> bytes, long origin, string? section)
    {
        _bytes = bytes;
        _origin = origin;
        _section = section;
        _position = 0;
    }

    internal readonly long Offset => _origin + _position;

    internal readonly int Position => _position;

    internal readonly int Remaining => _bytes.Length - _position;

    internal byte ReadByte(string what) => Take(sizeof(byte), what)[0];

    internal ushort ReadUInt16(string what) => BinaryPrimitives.ReadUInt16BigEndian(Take(sizeof(ushort), what));

    internal uint ReadUInt32(string what) => BinaryPrimitives.ReadUInt32BigEndian(Take(sizeof(uint), what));

    internal ulong ReadUInt64(string what) => BinaryPrimitives.ReadUInt64BigEndian(Take(sizeof(ulong), what));

    internal ReadOnlySpan<byte> ReadBytes(int count, string what) => Take(count, what);

    /// <summary>A length byte and that many bytes; never empty.</summary>
    internal ReadOnlySpan<byte> ReadName(string what)
    {
        long at = Offset;
        int length = ReadByte(what);
        return length == 0
            ? throw new MigrationStreamException(at, _section, $"{what} of 1 to 255 bytes", "length 0")
            : Take(length, what);
    }

    internal string ReadNameText(string what)
    {
        long at = Offset;
        return MigrationStreamState.DecodeName(ReadName(what))
            ?? throw new MigrationStreamException(at, _section, $"{what} in UTF-8", "other bytes");
    }

    internal void ExpectByte(byte value, string what)
    {
        long at = Offset;
        byte actual = ReadByte(what);
        if (actual != value)
        {
            throw new MigrationStreamException(at, _section, $"{what} 0x{value:x2}", $"0x{actual:x2}");
        }
    }

    internal void ExpectUInt32(uint value, string what)
    {
        long at = Offset;
        uint actual = ReadUInt32(what);
        if (actual != value)
        {
            throw new MigrationStreamException(at, _section, $"{what} {value} (0x{value:x})", $"{actual} (0x{actual:x})");
        }
    }

    internal readonly void ExpectEnd(string what)
    {
        if (Remaining != 0)
        {
            throw new MigrationStreamException(Offset, _section, $"the end of {what}", $"{Remaining} more bytes");
        }
    }

    private ReadOnlySpan<byte> Take(int count, string what)
    {
        if (count > Remaining)
        {
            throw new MigrationStreamException(Offset, _section, $"{count} bytes for {what}", $"only {Remaining}");
        }

        ReadOnlySpan<byte> taken = _bytes.Slice(_position, count);
        _position += count;
        return taken;
    }
}
