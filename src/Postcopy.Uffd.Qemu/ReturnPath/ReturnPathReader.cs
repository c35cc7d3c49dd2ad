using System.Buffers.Binary;

namespace Postcopy.Uffd.Qemu;

/// <summary>Reads the return path at the source: what a destination asks for and acknowledges.</summary>
/// <remarks>One thread at a time; properties speak of the message read last. Nothing is allocated per page request.</remarks>
public sealed class ReturnPathReader : IDisposable
{
    private const int HeaderLength = 2 * sizeof(ushort);
    private const int RequestLength = sizeof(ulong) + sizeof(uint);
    private const int BufferSize = 64 * 1024;
    private const string Section = "return path";

    private readonly ReceiveBuffer _buffer;
    private readonly IReadOnlyList<StreamRamBlock> _blocks;
    private readonly int _targetPageSize;
    private readonly int _hostPageSize;

    /// <summary>Reads a connection.</summary>
    /// <param name="channel">The main connection; it stays the caller's to dispose.</param>
    /// <param name="blocks">The blocks that may be asked for.</param>
    /// <param name="targetPageSize">Bytes that one bit of a received bitmap stands for.</param>
    /// <param name="hostPageSize">Requests must be multiples of it, whatever the block's page size; as QEMU checks.</param>
    public ReturnPathReader(
        MigrationChannel channel, IReadOnlyList<StreamRamBlock> blocks, int targetPageSize = 4096, int hostPageSize = 4096)
    {
        ArgumentNullException.ThrowIfNull(channel);
        ArgumentNullException.ThrowIfNull(blocks);
        _blocks = blocks;
        _targetPageSize = targetPageSize;
        _hostPageSize = hostPageSize;
        _buffer = new ReceiveBuffer(channel, BufferSize);
    }

    /// <summary>Whether <see cref="ReturnPathMessageType.ResendPagesId"/> is understood: the source sends checksums.</summary>
    internal bool AcceptsResend { get; init; }

    /// <summary>The value of a PONG, SHUT or RESUME_ACK.</summary>
    public uint Value { get; private set; }

    /// <summary>The block of a request or bitmap.</summary>
    public StreamRamBlock? Block { get; private set; }

    /// <summary>The first byte of a request.</summary>
    public long Start { get; private set; }

    /// <summary>The length of a request in bytes; 0 is legal and asks for nothing.</summary>
    public long Length { get; private set; }

    /// <summary>The received bitmap: bit i of the little-endian bytes is target page i.</summary>
    public ReadOnlyMemory<byte> Bitmap { get; private set; }

    /// <summary>Bytes consumed so far.</summary>
    public long StreamOffset => _buffer.Offset;

    /// <summary>Waits for the next message.</summary>
    /// <exception cref="MigrationStreamException">The message is malformed or asks for what is not there.</exception>
    /// <exception cref="MigrationConnectionException">The connection ended.</exception>
    public ReturnPathMessageType ReadNext()
    {
        _buffer.Fill(HeaderLength, Section);
        WireReader header = new(_buffer.Peek(HeaderLength), _buffer.Offset, Section);
        ReturnPathMessageType type = (ReturnPathMessageType)header.ReadUInt16("message type");
        int length = header.ReadUInt16("message length");
        CheckLength(type, length);
        _buffer.Fill(HeaderLength + length, Section);
        WireReader payload = new(_buffer.Peek(HeaderLength + length)[HeaderLength..], _buffer.Offset + HeaderLength, Section);
        switch (type)
        {
            case ReturnPathMessageType.ReqPagesId:
            case ReturnPathMessageType.ReqPages:
            case ReturnPathMessageType.ResendPagesId:
                ReadRequest(type, ref payload);
                break;
            case ReturnPathMessageType.RecvBitmap:
                Block = FindBlock(ref payload);
                break;
            case ReturnPathMessageType.SwitchoverAck:
                break;
            default:
                Value = payload.ReadUInt32("value");
                break;
        }

        payload.ExpectEnd($"{type}");
        _buffer.Advance(HeaderLength + length);
        if (type == ReturnPathMessageType.RecvBitmap)
        {
            ReadBitmap(Block!);
        }

        return type;
    }

    /// <summary>Frees the receive buffer.</summary>
    public void Dispose() => _buffer.Dispose();

    private void CheckLength(ReturnPathMessageType type, int length)
    {
        int minimum;
        int maximum;
        switch (type)
        {
            case ReturnPathMessageType.Shut or ReturnPathMessageType.Pong or ReturnPathMessageType.ResumeAck:
                minimum = maximum = sizeof(uint);
                break;
            case ReturnPathMessageType.ReqPages:
                minimum = maximum = RequestLength;
                break;
            case ReturnPathMessageType.ReqPagesId:
            case ReturnPathMessageType.ResendPagesId when AcceptsResend:
                (minimum, maximum) = (RequestLength + 2, RequestLength + 1 + ProtocolLimits.MaxNameLength);
                break;
            case ReturnPathMessageType.RecvBitmap:
                (minimum, maximum) = (2, 1 + ProtocolLimits.MaxNameLength);
                break;
            case ReturnPathMessageType.SwitchoverAck:
                minimum = maximum = 0;
                break;
            default:
                throw new MigrationStreamException(_buffer.Offset, Section, "a message type between 1 and 7", $"{(ushort)type}");
        }

        if (length < minimum || length > maximum)
        {
            throw new MigrationStreamException(
                _buffer.Offset + sizeof(ushort), Section,
                minimum == maximum ? $"{minimum} bytes of {type}" : $"{minimum} to {maximum} bytes of {type}", $"{length}");
        }
    }

    private void ReadRequest(ReturnPathMessageType type, ref WireReader payload)
    {
        long at = payload.Offset;
        ulong start = payload.ReadUInt64("start");
        uint length = payload.ReadUInt32("length");
        if (type != ReturnPathMessageType.ReqPages)
        {
            Block = FindBlock(ref payload);
        }

        StreamRamBlock block = Block
            ?? throw new MigrationStreamException(at, Section, "a named request before one without a name", "ReqPages");
        ulong mask = (ulong)_hostPageSize - 1;
        if (((start | length) & mask) != 0 || start > (ulong)block.Length || length > (ulong)block.Length - start)
        {
            throw new MigrationStreamException(
                at, Section, $"whole pages of {_hostPageSize} bytes inside '{block.Name}' of 0x{block.Length:x} bytes", $"0x{start:x} + 0x{length:x}");
        }

        Start = (long)start;
        Length = length;
    }

    private StreamRamBlock FindBlock(ref WireReader payload)
    {
        long at = payload.Offset;
        ReadOnlySpan<byte> name = payload.ReadName("block name");
        foreach (StreamRamBlock block in _blocks)
        {
            if (name.SequenceEqual(block.NameBytes))
            {
                return block;
            }
        }

        throw new MigrationStreamException(at, Section, "the name of a RAM block", $"'{MigrationStreamState.DecodeName(name) ?? Convert.ToHexString(name)}'");
    }

    /// <summary>The size, the bitmap and an end mark, none of them counted in the message's length.</summary>
    private void ReadBitmap(StreamRamBlock block)
    {
        _buffer.Fill(sizeof(ulong), Section);
        ulong size = BinaryPrimitives.ReadUInt64BigEndian(_buffer.Peek(sizeof(ulong)));
        long expected = ReceivedBitmapLength(block.Length, _targetPageSize);
        if (size != (ulong)expected)
        {
            throw new MigrationStreamException(_buffer.Offset, Section, $"a bitmap of {expected} bytes for '{block.Name}'", $"{size}");
        }

        _buffer.Advance(sizeof(ulong));
        byte[] bitmap = new byte[expected];
        for (int filled = 0; filled < bitmap.Length;)
        {
            filled += _buffer.Take(bitmap.AsSpan(filled), Section);
        }

        _buffer.Fill(sizeof(ulong), Section);
        ulong mark = BinaryPrimitives.ReadUInt64BigEndian(_buffer.Peek(sizeof(ulong)));
        if (mark != QemuWire.ReceivedBitmapEnd)
        {
            throw new MigrationStreamException(_buffer.Offset, Section, $"the bitmap's end mark 0x{QemuWire.ReceivedBitmapEnd:x16}", $"0x{mark:x16}");
        }

        _buffer.Advance(sizeof(ulong));
        Bitmap = bitmap;
    }

    /// <summary>The wire's size of a received bitmap: one bit per target page, rounded up to 8 bytes.</summary>
    /// <param name="blockLength">The block's used length in bytes.</param>
    /// <param name="targetPageSize">Bytes per bit.</param>
    public static long ReceivedBitmapLength(long blockLength, int targetPageSize)
    {
        const int BitsPerWord = 64;
        long pages = blockLength / targetPageSize;
        return (pages + BitsPerWord - 1) / BitsPerWord * sizeof(ulong);
    }
}
