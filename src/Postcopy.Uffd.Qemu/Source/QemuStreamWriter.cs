using System.Buffers.Binary;
using System.Runtime.InteropServices;

namespace Postcopy.Uffd.Qemu;

/// <summary>Writes the source's side of one connection through a fixed native buffer. One thread at a time.</summary>
internal sealed unsafe class QemuStreamWriter : IDisposable
{
    private const int Capacity = 256 * 1024;
    private readonly MigrationChannel _channel;
    private readonly int _targetPageSize;
    private readonly int _checksumLength;
    private byte* _base;
    private int _used;
    private StreamRamBlock? _lastBlock;

    internal QemuStreamWriter(MigrationChannel channel, int targetPageSize, bool checksums)
    {
        _channel = channel;
        _checksumLength = checksums ? PageChecksum.Length : 0;
        _targetPageSize = targetPageSize;
        // SAFETY: freed in Dispose.
        _base = (byte*)NativeMemory.Alloc(Capacity);
    }

    /// <summary>Bytes handed to the channel so far.</summary>
    internal long BytesSent { get; private set; }

    internal void Header(string machineType, Guid? uuid)
    {
        UInt32(QemuWire.FileMagic);
        UInt32(QemuWire.FileVersion);
        Byte((byte)RecordType.Configuration);
        byte[] name = System.Text.Encoding.UTF8.GetBytes(machineType);
        UInt32((uint)name.Length);
        Bytes(name);
        if (uuid is { } id)
        {
            Byte((byte)RecordType.Subsection);
            Name("configuration/uuid"u8);
            UInt32(1);
            _ = id.TryWriteBytes(Reserve(16), bigEndian: true, out _);
        }
    }

    internal void Command(MigrationCommand command, ReadOnlySpan<byte> payload = default)
    {
        Byte((byte)RecordType.Command);
        UInt16((ushort)command);
        UInt16(checked((ushort)payload.Length));
        Bytes(payload);
    }

    internal void Ping(uint value)
    {
        Span<byte> payload = stackalloc byte[sizeof(uint)];
        BinaryPrimitives.WriteUInt32BigEndian(payload, value);
        Command(MigrationCommand.Ping, payload);
    }

    internal void Advise(ulong pageSizes)
    {
        Span<byte> payload = stackalloc byte[2 * sizeof(ulong)];
        BinaryPrimitives.WriteUInt64BigEndian(payload, pageSizes);
        BinaryPrimitives.WriteUInt64BigEndian(payload[sizeof(ulong)..], (ulong)_targetPageSize);
        Command(MigrationCommand.PostcopyAdvise, payload);
    }

    internal void Discard(StreamRamBlock block, ReadOnlySpan<DiscardRange> ranges)
    {
        byte[] payload = new byte[3 + block.NameBytes.Length + (ranges.Length * 2 * sizeof(ulong))];
        payload[0] = QemuWire.DiscardVersion;
        payload[1] = (byte)block.NameBytes.Length;
        block.NameBytes.CopyTo(payload, 2);
        Span<byte> rest = payload.AsSpan(3 + block.NameBytes.Length);
        foreach (DiscardRange range in ranges)
        {
            BinaryPrimitives.WriteUInt64BigEndian(rest, (ulong)range.Start);
            BinaryPrimitives.WriteUInt64BigEndian(rest[sizeof(ulong)..], (ulong)range.Length);
            rest = rest[(2 * sizeof(ulong))..];
        }

        Command(MigrationCommand.PostcopyRamDiscard, payload);
    }

    internal void Package(ReadOnlySpan<byte> deviceSections, bool pointOfNoReturn)
    {
        const int Command = 5;
        const int Ping = Command + sizeof(uint);
        Span<byte> length = stackalloc byte[sizeof(uint)];
        BinaryPrimitives.WriteUInt32BigEndian(length, (uint)(Command + deviceSections.Length + Ping + (pointOfNoReturn ? Ping : 0) + Command));
        this.Command(MigrationCommand.Packaged, length);
        this.Command(MigrationCommand.PostcopyListen);
        Bytes(deviceSections);
        this.Ping(QemuWire.PingInPackage);
        if (pointOfNoReturn)
        {
            this.Ping(QemuWire.PingPointOfNoReturn);
        }

        this.Command(MigrationCommand.PostcopyRun);
    }

    internal void RamStart(uint sectionId, IReadOnlyList<StreamRamBlock> blocks, int hostPageSize)
    {
        Byte((byte)RecordType.SectionStart);
        UInt32(sectionId);
        Name("ram"u8);
        UInt32(QemuWire.RamSectionInstance);
        UInt32(QemuWire.RamSectionVersion);
        ulong total = 0;
        foreach (StreamRamBlock block in blocks)
        {
            total += (ulong)block.Length;
        }

        UInt64(total | (ulong)RamFlags.MemSize);
        foreach (StreamRamBlock block in blocks)
        {
            Name(block.NameBytes);
            UInt64((ulong)block.Length);
            if (block.PageSize != hostPageSize)
            {
                UInt64((ulong)block.PageSize);
            }
        }

        SectionFinish(sectionId);
    }

    internal void RamContinue(uint sectionId, bool last)
    {
        Byte((byte)(last ? RecordType.SectionEnd : RecordType.SectionPart));
        UInt32(sectionId);
    }

    internal void SectionFinish(uint sectionId)
    {
        EndOfRecords();
        Byte((byte)RecordType.SectionFooter);
        UInt32(sectionId);
    }

    internal void EndOfRecords() => UInt64((ulong)RamFlags.Eos);

    internal void EndOfFile() => Byte((byte)RecordType.Eof);

    /// <summary>Writes one target page; its content is read straight into the buffer. True when it was a page of zeros.</summary>
    internal bool Page(IMigrationSourceMemory memory, SourceRamBlock source, StreamRamBlock block, long offset, bool detectZero)
    {
        bool named = !ReferenceEquals(block, _lastBlock);
        int head = sizeof(ulong) + (named ? 1 + block.NameBytes.Length : 0);
        Span<byte> record = Reserve(head + _checksumLength + _targetPageSize);
        Span<byte> content = record[(head + _checksumLength)..];
        memory.ReadPages(source, offset, content);
        bool zero = detectZero && !content.ContainsAnyExcept((byte)0);
        RamFlags flags = (zero ? RamFlags.Zero : RamFlags.Page) | (named ? RamFlags.None : RamFlags.Continue) | (_checksumLength > 0 ? RamFlags.Checksum : RamFlags.None);
        BinaryPrimitives.WriteUInt64BigEndian(record, (ulong)offset | (ulong)flags);
        if (named)
        {
            record[sizeof(ulong)] = (byte)block.NameBytes.Length;
            block.NameBytes.CopyTo(record[(sizeof(ulong) + 1)..]);
            _lastBlock = block;
        }

        if (_checksumLength > 0)
        {
            PageChecksum.Write(record[head..], record[..head], zero ? content[..1] : content, offset);
        }

        if (zero)
        {
            // Keep one of the zeros: it is the record's fill byte.
            _used -= _targetPageSize - 1;
        }

        return zero;
    }

    internal void Flush()
    {
        if (_used > 0)
        {
            // SAFETY: _used bytes of the buffer are written.
            _channel.Send(new ReadOnlySpan<byte>(_base, _used));
            BytesSent += _used;
            _used = 0;
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        NativeMemory.Free(_base);
        _base = null;
    }

    private Span<byte> Reserve(int count)
    {
        ObjectDisposedException.ThrowIf(_base is null, this);
        if (_used + count > Capacity)
        {
            Flush();
        }

        // SAFETY: count bytes fit behind _used; records are far smaller than the buffer.
        Span<byte> reserved = new(_base + _used, count);
        _used += count;
        return reserved;
    }

    private void Bytes(ReadOnlySpan<byte> bytes)
    {
        while (!bytes.IsEmpty)
        {
            int count = Math.Min(bytes.Length, Capacity);
            bytes[..count].CopyTo(Reserve(count));
            bytes = bytes[count..];
        }
    }

    private void Name(ReadOnlySpan<byte> name)
    {
        Byte((byte)name.Length);
        Bytes(name);
    }

    private void Byte(byte value) => Reserve(1)[0] = value;

    private void UInt16(ushort value) => BinaryPrimitives.WriteUInt16BigEndian(Reserve(sizeof(ushort)), value);

    private void UInt32(uint value) => BinaryPrimitives.WriteUInt32BigEndian(Reserve(sizeof(uint)), value);

    private void UInt64(ulong value) => BinaryPrimitives.WriteUInt64BigEndian(Reserve(sizeof(ulong)), value);
}
