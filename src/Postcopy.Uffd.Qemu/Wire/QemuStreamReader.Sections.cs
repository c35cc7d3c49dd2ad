namespace Postcopy.Uffd.Qemu;

/// <content>Records of the main stream: sections, footers and the end.</content>
public sealed partial class QemuStreamReader
{
    private RecordType _sectionType;
    private uint _sectionId;
    private bool _ramEnded;
    private bool _resumed;

    private string? CurrentSection => _step switch
    {
        Step.RamRecord or Step.BlockList or Step.Footer => QemuWire.RamSectionName,
        Step.Package => PackagedName,
        Step.Configuration or Step.ConfigurationSubsections => ConfigurationName,
        _ => null,
    };

    private bool ReadRecord(out StreamRecordKind kind)
    {
        kind = StreamRecordKind.None;
        if (!Require(1))
        {
            return false;
        }

        byte type = _buffer.Peek(1)[0];
        switch ((RecordType)type)
        {
            case RecordType.Command:
                return ReadCommand(out kind);
            case RecordType.SectionStart:
            case RecordType.SectionFull:
                return ReadSectionStart((RecordType)type);
            case RecordType.SectionPart:
            case RecordType.SectionEnd:
                return ReadSectionPart((RecordType)type);
            case RecordType.Eof:
                kind = ReadEof();
                return true;
            default:
                throw Malformed(0, null, "a section, a command or EOF", $"record 0x{type:x2}");
        }
    }

    private bool ReadSectionStart(RecordType type)
    {
        const int ToName = 1 + sizeof(uint);
        if (!Require(ToName + 1))
        {
            return false;
        }

        int total = ToName + 1 + _buffer.Peek(ToName + 1)[ToName] + (2 * sizeof(uint));
        if (!Require(total))
        {
            return false;
        }

        WireReader reader = new(_buffer.Peek(total), _buffer.Offset, null);
        _ = reader.ReadByte("record type");
        uint id = reader.ReadUInt32("section id");
        string name = reader.ReadNameText("section name");
        if (type == RecordType.SectionFull && _state.Phase < StreamPhase.Running)
        {
            throw Malformed(
                0, name, "the switch to postcopy before any device section", $"section '{name}' outside the package: the source completes in precopy");
        }

        if (type == RecordType.SectionFull || name != QemuWire.RamSectionName)
        {
            throw Malformed(0, name, "only the ram section outside the package", $"section '{name}'");
        }

        if (_state.Phase == StreamPhase.None)
        {
            throw Malformed(0, name, "POSTCOPY_ADVISE before the ram section", "none: postcopy-ram is off at the source");
        }

        if (_state.Phase != StreamPhase.Advise || _state.RamSectionId is not null)
        {
            throw Malformed(0, name, "the ram section to start once, before the switch", "a second start");
        }

        WireReader tail = new(_buffer.Peek(total)[reader.Position..], _buffer.Offset + reader.Position, name);
        tail.ExpectUInt32(QemuWire.RamSectionInstance, "instance");
        tail.ExpectUInt32(QemuWire.RamSectionVersion, "version");
        _state.RamSectionId = id;
        EnterRamSection(type, id, total);
        return true;
    }

    private bool ReadSectionPart(RecordType type)
    {
        const int Length = 1 + sizeof(uint);
        if (!Require(Length))
        {
            return false;
        }

        WireReader reader = new(_buffer.Peek(Length)[1..], _buffer.Offset + 1, null);
        uint id = reader.ReadUInt32("section id");
        if (_state.RamSectionId is not { } ram)
        {
            throw Malformed(1, null, "a section that was started", $"section id {id}");
        }

        if (id != ram)
        {
            throw Malformed(1, null, $"section id {ram} (ram)", $"{id}");
        }

        if (_ramEnded)
        {
            throw Malformed(0, QemuWire.RamSectionName, "EOF after the end of the ram section", "another part");
        }

        if (type == RecordType.SectionEnd && _state.Phase != StreamPhase.Running)
        {
            throw Malformed(
                0, QemuWire.RamSectionName, "the switch to postcopy before the ram section ends", "SECTION_END: the source completes in precopy");
        }

        if (_kind == StreamKind.Recovery && !_resumed)
        {
            throw Malformed(0, QemuWire.RamSectionName, "POSTCOPY_RESUME before more pages", "a ram section");
        }

        EnterRamSection(type, id, Length);
        return true;
    }

    private void EnterRamSection(RecordType type, uint id, int headerLength)
    {
        _sectionType = type;
        _sectionId = id;
        _buffer.Advance(headerLength);
        _step = Step.RamRecord;
    }

    private bool ReadFooter(out StreamRecordKind kind)
    {
        kind = StreamRecordKind.None;
        const int Length = 1 + sizeof(uint);
        if (!Require(Length))
        {
            return false;
        }

        if (_sectionType == RecordType.SectionStart && _state.Blocks.Count == 0)
        {
            throw Malformed(0, QemuWire.RamSectionName, "a block list in the start of the ram section", "its end");
        }

        WireReader reader = new(_buffer.Peek(Length), _buffer.Offset, QemuWire.RamSectionName);
        reader.ExpectByte((byte)RecordType.SectionFooter, "footer");
        reader.ExpectUInt32(_sectionId, "footer's section id");
        _buffer.Advance(Length);
        _ramEnded |= _sectionType == RecordType.SectionEnd;
        _step = Step.Record;
        kind = StreamRecordKind.SectionEnd;
        return true;
    }

    private StreamRecordKind ReadEof()
    {
        if (_state.Phase != StreamPhase.Running)
        {
            throw Malformed(0, null, "the switch to postcopy before EOF", $"EOF in phase {_state.Phase}");
        }

        if (!_ramEnded)
        {
            throw Malformed(0, null, "the end of the ram section before EOF", "EOF");
        }

        if (!_sequence.TryEndEarly(_state.IsResumed))
        {
            throw Malformed(0, QemuWire.RamSectionName, $"the rest of the host page, {_sequence.Describe()}", "EOF");
        }

        _buffer.Advance(1);
        _state.Phase = StreamPhase.End;
        _step = Step.End;
        return StreamRecordKind.EndOfStream;
    }
}
