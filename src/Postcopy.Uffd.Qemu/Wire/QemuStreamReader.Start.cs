namespace Postcopy.Uffd.Qemu;

/// <content>The beginning of a connection: which kind it is, header, configuration.</content>
public sealed partial class QemuStreamReader
{
    private const string ConfigurationName = "configuration";
    private const int TargetPageBitsSeen = 1;
    private const int CapabilitiesSeen = 2;
    private const int UuidSeen = 4;
    private int _subsectionsSeen;

    /// <summary>The connection began as a channel of the capability multifd, and was refused.</summary>
    internal bool IsMultifd { get; private set; }

    private bool StartConnection()
    {
        // The shortest beginning is a command without payload (five bytes); a RAM record has eight.
        if (!Require(sizeof(uint)))
        {
            return false;
        }

        WireReader reader = new(_buffer.Peek(sizeof(uint)), _buffer.Offset, "header");
        uint first = reader.ReadUInt32("magic");
        IsMultifd = first == QemuWire.MultifdMagic;
        StreamKind found = first switch
        {
            QemuWire.FileMagic => StreamKind.Main,
            _ when first >> 24 == (uint)RecordType.Command => StreamKind.Recovery,
            // The upper half of an offset in a block: nearly always zero.
            _ when first <= (ulong)_limits.MaxBlockLength >> 32 => StreamKind.Urgent,
            _ => StreamKind.Unknown,
        };
        StreamKind wanted = _kind == StreamKind.Unknown ? found : _kind;
        if (found != wanted || found == StreamKind.Unknown)
        {
            string expected = wanted switch
            {
                StreamKind.Recovery => "a command (0x08) of a resumed migration",
                StreamKind.Urgent => "a RAM record",
                _ => $"magic 0x{QemuWire.FileMagic:x} (\"QEVM\")",
            };
            throw Malformed(0, "header", expected, $"0x{first:x8}");
        }

        _kind = found;
        switch (found)
        {
            case StreamKind.Main when _state.Phase != StreamPhase.None:
                throw Malformed(0, "header", $"no new migration in phase {_state.Phase}", "the beginning of one");
            case StreamKind.Recovery when _state.Phase != StreamPhase.Running:
                throw Malformed(0, "header", $"magic 0x{QemuWire.FileMagic:x} (\"QEVM\") in phase {_state.Phase}", $"0x{first:x8}");
            case StreamKind.Main:
                _step = Step.Configuration;
                break;
            case StreamKind.Recovery:
                _state.IsResumed = true;
                _step = Step.Record;
                break;
            default:
                _step = Step.RamRecord;
                break;
        }

        return true;
    }

    private bool ReadConfiguration()
    {
        const int Fixed = sizeof(uint) + sizeof(uint) + sizeof(byte) + sizeof(uint);
        if (!Require(Fixed))
        {
            return false;
        }

        WireReader header = new(_buffer.Peek(Fixed), _buffer.Offset, "header");
        _ = header.ReadUInt32("magic");
        header.ExpectUInt32(QemuWire.FileVersion, "version");
        header.ExpectByte((byte)RecordType.Configuration, "configuration record");
        uint length = header.ReadUInt32("machine type length");
        if (length == 0 || length > _limits.MaxMachineTypeLength)
        {
            throw Malformed(
                Fixed - sizeof(uint), ConfigurationName, $"a machine type of 1 to {_limits.MaxMachineTypeLength} bytes", $"{length}");
        }

        if (!Require(Fixed + (int)length))
        {
            return false;
        }

        _state.MachineType = MigrationStreamState.DecodeName(_buffer.Peek(Fixed + (int)length)[Fixed..])
            ?? throw Malformed(Fixed, ConfigurationName, "a machine type in UTF-8", "other bytes");
        _buffer.Advance(Fixed + (int)length);
        _step = Step.ConfigurationSubsections;
        return true;
    }

    /// <summary>The list of subsections ends only by the next byte being something else.</summary>
    private bool ReadConfigurationSubsection(out StreamRecordKind kind)
    {
        kind = StreamRecordKind.None;
        if (!Require(1))
        {
            return false;
        }

        if (_buffer.Peek(1)[0] != (byte)RecordType.Subsection)
        {
            kind = StreamRecordKind.Configuration;
            _step = Step.Record;
            return true;
        }

        if (!Require(2))
        {
            return false;
        }

        int head = 2 + _buffer.Peek(2)[1] + sizeof(uint);
        if (!Require(head))
        {
            return false;
        }

        WireReader reader = new(_buffer.Peek(head), _buffer.Offset, ConfigurationName);
        reader.ExpectByte((byte)RecordType.Subsection, "subsection");
        string name = reader.ReadNameText("subsection name");
        reader.ExpectUInt32(1, $"version of {name}");
        int body = name switch
        {
            "configuration/target-page-bits" => ReadTargetPageBits(head),
            "configuration/uuid" => ReadUuid(head),
            "configuration/capabilities" => ReadCapabilities(head),
            _ => throw Malformed(1, ConfigurationName, "target-page-bits, capabilities or uuid", $"subsection '{name}'"),
        };
        if (body < 0)
        {
            return false;
        }

        _buffer.Advance(head + body);
        return true;
    }

    private int ReadTargetPageBits(int head)
    {
        if (!Require(head + sizeof(uint)))
        {
            return -1;
        }

        MarkSubsection(TargetPageBitsSeen, head, "target-page-bits");
        WireReader reader = new(_buffer.Peek(head + sizeof(uint))[head..], _buffer.Offset + head, ConfigurationName);
        uint bits = reader.ReadUInt32("target page bits");
        if (bits is < ProtocolLimits.MinTargetPageBits or > ProtocolLimits.MaxTargetPageBits)
        {
            throw Malformed(
                head, ConfigurationName, $"{ProtocolLimits.MinTargetPageBits} to {ProtocolLimits.MaxTargetPageBits} target page bits", $"{bits}");
        }

        _state.TargetPageSize = 1 << (int)bits;
        return sizeof(uint);
    }

    private int ReadUuid(int head)
    {
        const int Length = 16;
        if (!Require(head + Length))
        {
            return -1;
        }

        MarkSubsection(UuidSeen, head, "uuid");
        _state.Uuid = new Guid(_buffer.Peek(head + Length)[head..], bigEndian: true);
        return Length;
    }

    /// <summary>Only capabilities that exclude postcopy, or that change the block list, are ever listed.</summary>
    private int ReadCapabilities(int head)
    {
        if (!Require(head + sizeof(uint)))
        {
            return -1;
        }

        MarkSubsection(CapabilitiesSeen, head, "capabilities");
        WireReader reader = new(_buffer.Peek(head + sizeof(uint))[head..], _buffer.Offset + head, ConfigurationName);
        uint count = reader.ReadUInt32("capability count");
        if (count > _limits.MaxCapabilities)
        {
            throw Malformed(head, ConfigurationName, $"at most {_limits.MaxCapabilities} capabilities", $"{count}");
        }

        if (count == 0)
        {
            return sizeof(uint);
        }

        int at = head + sizeof(uint);
        if (!Require(at + 1) || !Require(at + 1 + _buffer.Peek(at + 1)[at]))
        {
            // Not consumed, so read again in full; the mark must not stand in the way.
            _subsectionsSeen &= ~CapabilitiesSeen;
            return -1;
        }

        int length = 1 + _buffer.Peek(at + 1)[at];
        WireReader first = new(_buffer.Peek(at + length)[at..], _buffer.Offset + at, ConfigurationName);
        throw Malformed(at, ConfigurationName, "no capability that excludes postcopy", $"'{first.ReadNameText("capability")}'");
    }

    private void MarkSubsection(int mark, int head, string name)
    {
        if ((_subsectionsSeen & mark) != 0)
        {
            throw Malformed(head, ConfigurationName, $"subsection {name} once", "it again");
        }

        _subsectionsSeen |= mark;
    }
}
