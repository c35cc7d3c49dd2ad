using System.Buffers.Binary;
using System.Numerics;

namespace Postcopy.Uffd.Qemu;

/// <content>The body of the ram section and the whole of the urgent channel: eight bytes of offset and flags, then the record.</content>
public sealed partial class QemuStreamReader
{
    private const int RecordHead = sizeof(ulong);
    private const string Ram = QemuWire.RamSectionName;

    private StreamRamBlock? _lastBlock;
    private HostPageSequence _sequence;
    private long _blockBytesLeft;

    private bool ReadRamRecord(out StreamRecordKind kind)
    {
        kind = StreamRecordKind.None;
        if (TakeScattered(out kind))
        {
            return true;
        }

        if (!Require(RecordHead))
        {
            return false;
        }

        ulong head = BinaryPrimitives.ReadUInt64BigEndian(_buffer.Peek(RecordHead));
        ulong flagMask = (ulong)_state.TargetPageSize - 1;
        ulong offset = head & ~flagMask;
        RamFlags flags = (RamFlags)(head & flagMask);
        switch (flags & ~(RamFlags.Continue | RamFlags.Checksum))
        {
            case RamFlags.Page:
            case RamFlags.Zero:
            case RamFlags.CompressPage when (flags & RamFlags.Checksum) == 0:
            case RamFlags.Xbzrle when (flags & RamFlags.Checksum) == 0:
                return ReadPage(offset, flags, out kind);
            case RamFlags.Eos when flags == RamFlags.Eos && offset == 0:
                kind = EndOfRecords();
                return true;
            case RamFlags.MemSize when flags == RamFlags.MemSize && _kind == StreamKind.Main:
                BeginBlockList(offset);
                return true;
            case RamFlags.MultifdFlush when flags == RamFlags.MultifdFlush && offset == 0 && _kind != StreamKind.Urgent:
                _buffer.Advance(RecordHead);
                return true;
            default:
                throw Malformed(0, Ram, "a page, zero page or end record", $"flags 0x{(uint)flags:x3} at offset 0x{offset:x}");
        }
    }

    private StreamRecordKind EndOfRecords()
    {
        if (_kind != StreamKind.Urgent)
        {
            _buffer.Advance(RecordHead);
            _step = Step.Footer;
            return StreamRecordKind.None;
        }

        if (!_sequence.TryEndEarly(_state.IsResumed))
        {
            throw Malformed(0, Ram, $"the rest of the host page, {_sequence.Describe()}", "the end of the urgent channel");
        }

        _buffer.Advance(RecordHead);
        _step = Step.End;
        return StreamRecordKind.EndOfStream;
    }

    private bool ReadPage(ulong offset, RamFlags flags, out StreamRecordKind kind)
    {
        kind = StreamRecordKind.None;
        int at = RecordHead;
        StreamRamBlock? block = _lastBlock;
        if ((flags & RamFlags.Continue) == 0)
        {
            if (!Require(at + 1) || !Require(at + 1 + _buffer.Peek(at + 1)[at]))
            {
                return false;
            }

            WireReader name = new(_buffer.Peek(at + 1 + _buffer.Peek(at + 1)[at])[at..], _buffer.Offset + at, Ram);
            block = ReadKnownBlock(ref name, Ram);
            at += name.Position;
        }
        else if (block is null)
        {
            throw Malformed(0, Ram, "a named page before one with CONTINUE", "CONTINUE");
        }

        int headLength = at;
        if ((flags & RamFlags.Checksum) != 0)
        {
            if (!Require(at + PageChecksum.Length))
            {
                return false;
            }

            CheckHead(_buffer.Peek(at + PageChecksum.Length), at);
            at += PageChecksum.Length;
        }
        else if (_options.RequirePageChecksums || _state.HasChecksums)
        {
            throw Malformed(0, Ram, "a page with a checksum", $"one without, block '{block.Name}' offset 0x{offset:x}");
        }

        CheckPage(block, offset, flags);
        if (!ReadPayload(flags & ~(RamFlags.Continue | RamFlags.Checksum), at, out nuint data, out int dataLength, out int total, out kind))
        {
            return false;
        }

        if ((flags & RamFlags.Checksum) != 0 && !IsIntact(block, (long)offset, headLength, total))
        {
            kind = StreamRecordKind.CorruptPage;
        }

        if (_state.Phase == StreamPhase.Running || _kind == StreamKind.Urgent)
        {
            if (_sequence.Accept(block, (long)offset, _state.TargetPageSize, _state.IsResumed) is { } expected)
            {
                throw Malformed(0, Ram, expected, $"block '{block.Name}' offset 0x{offset:x}");
            }
        }

        NoteNeighbour(block, (long)offset, flags);
        _lastBlock = block;
        Block = block;
        PageOffset = (long)offset;
        Data = data;
        DataLength = dataLength;
        _buffer.Advance(total);
        return true;
    }

    /// <summary>A damaged head could claim to be any page: nothing that follows can be trusted, and the stream is given up.</summary>
    private void CheckHead(ReadOnlySpan<byte> record, int headLength)
    {
        uint sent = BinaryPrimitives.ReadUInt32BigEndian(record[headLength..]);
        uint actual = PageChecksum.OfHead(record[..headLength]);
        if (sent != actual)
        {
            throw Malformed(0, Ram, $"a record head whose XXH3 ends in {sent:x8}", $"{actual:x8}");
        }

        _state.HasChecksums = true;
    }

    private bool IsIntact(StreamRamBlock block, long offset, int headLength, int total)
    {
        ReadOnlySpan<byte> record = _buffer.Peek(total)[(headLength + sizeof(uint))..];
        ulong sent = BinaryPrimitives.ReadUInt64BigEndian(record);
        ulong actual = PageChecksum.OfPayload(record[sizeof(ulong)..], offset);
        if (sent != actual)
        {
            CorruptPage = new CorruptPage(block.Name, offset, sent, actual);
        }

        return sent == actual;
    }

    private void CheckPage(StreamRamBlock block, ulong offset, RamFlags flags)
    {
        // The block's length is a multiple of the target page, so a page that starts inside ends inside.
        if (offset >= (ulong)block.Length)
        {
            throw Malformed(0, Ram, $"an offset inside '{block.Name}' of 0x{block.Length:x} bytes", $"0x{offset:x}");
        }

        // The urgent channel is asked for pages only after the switch, and may outlive the main channel's EOF.
        StreamPhase phase = _state.Phase;
        bool legal = _kind == StreamKind.Urgent
            ? phase is StreamPhase.Running or StreamPhase.End
            : phase is StreamPhase.Advise or StreamPhase.Running;
        if (!legal)
        {
            throw Malformed(0, Ram, "no page between the first discard and the package", $"block '{block.Name}' offset 0x{offset:x} in phase {phase}");
        }

        if ((flags & RamFlags.Xbzrle) != 0 && phase != StreamPhase.Advise)
        {
            throw Malformed(0, Ram, "whole pages in postcopy", "an XBZRLE delta");
        }
    }

    private bool ReadPayload(RamFlags type, int at, out nuint data, out int dataLength, out int total, out StreamRecordKind kind)
    {
        data = 0;
        dataLength = 0;
        total = at;
        kind = StreamRecordKind.None;
        switch (type)
        {
            case RamFlags.Page:
                total = at + _state.TargetPageSize;
                if (!Require(total))
                {
                    return false;
                }

                data = _buffer.Address + (nuint)at;
                dataLength = _state.TargetPageSize;
                kind = StreamRecordKind.Page;
                PageRecords++;
                return true;

            case RamFlags.Zero:
                total = at + 1;
                if (!Require(total))
                {
                    return false;
                }

                byte fill = _buffer.Peek(total)[at];
                if (fill != 0 && !_state.HasChecksums)
                {
                    throw Malformed(at, Ram, "fill byte 0 of a zero page", $"0x{fill:x2}");
                }

                kind = StreamRecordKind.ZeroPage;
                ZeroPageRecords++;
                return true;

            case RamFlags.Xbzrle:
                return ReadDelta(at, out data, out dataLength, out total, out kind);

            default:
                return ReadPacked(at, out data, out dataLength, out total, out kind);
        }
    }

    private bool ReadDelta(int at, out nuint data, out int dataLength, out int total, out StreamRecordKind kind)
    {
        const int Head = sizeof(byte) + sizeof(ushort);
        (data, dataLength, total, kind) = (0, 0, at, StreamRecordKind.None);
        if (!Require(at + Head))
        {
            return false;
        }

        WireReader reader = new(_buffer.Peek(at + Head)[at..], _buffer.Offset + at, Ram);
        reader.ExpectByte(QemuWire.XbzrleEncoding, "XBZRLE encoding");
        int length = reader.ReadUInt16("delta length");
        if (length > _state.TargetPageSize)
        {
            throw Malformed(at + 1, Ram, $"a delta of at most {_state.TargetPageSize} bytes", $"{length}");
        }

        total = at + Head + length;
        if (!Require(total))
        {
            return false;
        }

        data = _buffer.Address + (nuint)(at + Head);
        dataLength = length;
        kind = StreamRecordKind.XbzrlePage;
        PageRecords++;
        return true;
    }

    private bool ReadPacked(int at, out nuint data, out int dataLength, out int total, out StreamRecordKind kind)
    {
        (data, dataLength, total, kind) = (0, 0, at, StreamRecordKind.None);
        if (!Require(at + sizeof(uint)))
        {
            return false;
        }

        uint length = BinaryPrimitives.ReadUInt32BigEndian(_buffer.Peek(at + sizeof(uint))[at..]);
        int limit = _limits.MaxCompressedPageLength(_state.TargetPageSize);
        if (length == 0 || length > limit)
        {
            throw Malformed(at, Ram, $"a compressed page of 1 to {limit} bytes", $"{length}");
        }

        total = at + sizeof(uint) + (int)length;
        _unpacker ??= new PageUnpacker(_state.TargetPageSize);
        if (!Require(total) || _unpacker.IsFull)
        {
            return false;
        }

        data = _unpacker.TryUnpack(_buffer.Address + (nuint)(at + sizeof(uint)), (int)length)
            ?? throw Malformed(at + sizeof(uint), Ram, $"a zlib stream of {_state.TargetPageSize} bytes", "other data");
        dataLength = _state.TargetPageSize;
        kind = StreamRecordKind.Page;
        PageRecords++;
        return true;
    }

    private void BeginBlockList(ulong totalBytes)
    {
        if (_sectionType != RecordType.SectionStart || _state.Blocks.Count != 0)
        {
            throw Malformed(0, Ram, "the block list once, in the start of the section", "another block list");
        }

        if (totalBytes == 0 || totalBytes > (ulong)_limits.MaxTotalRam)
        {
            throw Malformed(0, Ram, $"1 page to {_limits.MaxTotalRam} bytes of RAM", $"{totalBytes}");
        }

        _buffer.Advance(RecordHead);
        _blockBytesLeft = (long)totalBytes;
        _step = Step.BlockList;
    }

    /// <summary>
    /// One entry. The stream does not say whether a page size follows the length: a name's length is never 0, and every
    /// record after the list has a flag, so the next bytes tell (qemu-wire.md 2.2).
    /// </summary>
    private bool ReadBlockListEntry(out StreamRecordKind kind)
    {
        kind = StreamRecordKind.None;
        if (!Require(1))
        {
            return false;
        }

        int fixedLength = 1 + _buffer.Peek(1)[0] + sizeof(ulong);
        int withNext = fixedLength + sizeof(ulong);
        if (!Require(withNext))
        {
            return false;
        }

        WireReader reader = new(_buffer.Peek(withNext), _buffer.Offset, Ram);
        string name = reader.ReadNameText("block name");
        int lengthAt = reader.Position;
        ulong length = reader.ReadUInt64("block length");
        ulong flagMask = (ulong)_state.TargetPageSize - 1;
        if (length == 0 || length > (ulong)Math.Min(_blockBytesLeft, _limits.MaxBlockLength) || (length & flagMask) != 0)
        {
            throw Malformed(
                lengthAt, Ram,
                $"a length of '{name}' in whole pages of {_state.TargetPageSize} bytes, at most {Math.Min(_blockBytesLeft, _limits.MaxBlockLength)}",
                $"{length}");
        }

        bool last = length == (ulong)_blockBytesLeft;
        ulong next = reader.ReadUInt64("page size or next record");
        bool hasPageSize = last ? (next & flagMask) == 0 : next >> 56 == 0;
        ulong pageSize = hasPageSize ? next : (ulong)Math.Max(_options.SourceHostPageSize, _state.TargetPageSize);
        if (!BitOperations.IsPow2(pageSize) || pageSize < (ulong)_state.TargetPageSize || pageSize > (ulong)_limits.MaxBlockPageSize
            || (length & (pageSize - 1)) != 0)
        {
            throw Malformed(
                fixedLength, Ram, $"a page size of '{name}' that is a power of two, at most {_limits.MaxBlockPageSize}, and divides {length}", $"{pageSize}");
        }

        if (_state.GrowingCount >= _limits.MaxBlocks)
        {
            throw Malformed(0, Ram, $"at most {_limits.MaxBlocks} blocks", $"one more, '{name}'");
        }

        if (!_state.TryAddBlock(name, (long)length, (long)pageSize))
        {
            throw Malformed(0, Ram, "each block name once", $"'{name}' again");
        }

        _buffer.Advance(hasPageSize ? withNext : fixedLength);
        _blockBytesLeft -= (long)length;
        if (_blockBytesLeft == 0)
        {
            kind = CompleteBlockList();
        }

        return true;
    }

    private StreamRecordKind CompleteBlockList()
    {
        ulong sizes = _state.PageSizesOfBlocks();
        if (sizes != _state.AdvisedPageSizes)
        {
            throw Malformed(
                0, Ram, $"blocks with the page sizes that POSTCOPY_ADVISE gave (OR 0x{_state.AdvisedPageSizes:x})",
                $"0x{sizes:x}, with source host pages of {_options.SourceHostPageSize} bytes");
        }

        _state.CompleteBlocks();
        _step = Step.RamRecord;
        return StreamRecordKind.BlockList;
    }
}
