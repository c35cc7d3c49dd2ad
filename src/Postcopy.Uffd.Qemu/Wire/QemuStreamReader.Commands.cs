namespace Postcopy.Uffd.Qemu;

/// <content>Commands, each legal in its phase only.</content>
public sealed partial class QemuStreamReader
{
    private const int CommandHeader = 1 + sizeof(ushort) + sizeof(ushort);
    private const int DiscardRangeLength = 2 * sizeof(ulong);
    internal const string PackagedName = "PACKAGED";
    private const int FirstPackageChunk = 64 * 1024;

    private DiscardRange[] _discards = new DiscardRange[QemuWire.DiscardRangesPerCommand];
    private int _discardCount;
    private bool _returnPathOpen;
    private int _packageLength;

    private bool ReadCommand(out StreamRecordKind kind)
    {
        kind = StreamRecordKind.None;
        if (!Require(CommandHeader))
        {
            return false;
        }

        WireReader header = new(_buffer.Peek(CommandHeader)[1..], _buffer.Offset + 1, null);
        ushort number = header.ReadUInt16("command");
        int length = header.ReadUInt16("command length");
        MigrationCommand command = (MigrationCommand)number;
        string name = NameOf(command) ?? throw Malformed(1, null, "a command between 1 and 11", $"{number}");
        CheckLength(command, name, length);
        CheckPhase(command, name);
        if (!Require(CommandHeader + length))
        {
            return false;
        }

        WireReader payload = new(
            _buffer.Peek(CommandHeader + length)[CommandHeader..], _buffer.Offset + CommandHeader, name);
        kind = Apply(command, ref payload);
        payload.ExpectEnd(name);
        _buffer.Advance(CommandHeader + length);
        return true;
    }

    private static string? NameOf(MigrationCommand command) => command switch
    {
        MigrationCommand.OpenReturnPath => "OPEN_RETURN_PATH",
        MigrationCommand.Ping => "PING",
        MigrationCommand.PostcopyAdvise => "POSTCOPY_ADVISE",
        MigrationCommand.PostcopyListen => "POSTCOPY_LISTEN",
        MigrationCommand.PostcopyRun => "POSTCOPY_RUN",
        MigrationCommand.PostcopyRamDiscard => "POSTCOPY_RAM_DISCARD",
        MigrationCommand.Packaged => PackagedName,
        MigrationCommand.EnableColo => "ENABLE_COLO",
        MigrationCommand.PostcopyResume => "POSTCOPY_RESUME",
        MigrationCommand.RecvBitmap => "RECV_BITMAP",
        MigrationCommand.SwitchoverStart => "SWITCHOVER_START",
        _ => null,
    };

    private void CheckLength(MigrationCommand command, string name, int length)
    {
        int? exact = command switch
        {
            MigrationCommand.Ping or MigrationCommand.Packaged => sizeof(uint),
            MigrationCommand.PostcopyAdvise => 2 * sizeof(ulong),
            MigrationCommand.PostcopyRamDiscard or MigrationCommand.RecvBitmap => null,
            _ => 0,
        };
        if (exact is { } right && length != right)
        {
            string actual = command == MigrationCommand.PostcopyAdvise && length == 0
                ? "0 (postcopy of dirty bitmaps only: switch postcopy-ram on at the source)"
                : $"{length}";
            throw Malformed(1 + sizeof(ushort), name, $"length {right}", actual);
        }
    }

    private void CheckPhase(MigrationCommand command, string name)
    {
        StreamPhase phase = _state.Phase;
        bool recovery = _kind == StreamKind.Recovery;
        string? expected = command switch
        {
            MigrationCommand.Ping => null,
            MigrationCommand.PostcopyListen or MigrationCommand.PostcopyRun => "it inside the package",
            MigrationCommand.EnableColo => "no COLO",
            MigrationCommand.RecvBitmap when !recovery || _resumed => "it only after a reconnect, before POSTCOPY_RESUME",
            MigrationCommand.PostcopyResume when !recovery || _resumed => "it only after a reconnect, once",
            MigrationCommand.RecvBitmap or MigrationCommand.PostcopyResume => null,
            _ when recovery => "RECV_BITMAP or POSTCOPY_RESUME after a reconnect",
            MigrationCommand.OpenReturnPath when phase != StreamPhase.None || _returnPathOpen => "it once, at the beginning",
            MigrationCommand.PostcopyAdvise when phase != StreamPhase.None => "it once, at the beginning",
            MigrationCommand.SwitchoverStart when phase != StreamPhase.Advise => "it before the switch",
            MigrationCommand.PostcopyRamDiscard or MigrationCommand.Packaged
                when phase is not (StreamPhase.Advise or StreamPhase.Discard) => "it after POSTCOPY_ADVISE and before the switch",
            MigrationCommand.PostcopyRamDiscard or MigrationCommand.Packaged
                when _state.Blocks.Count == 0 => "it after the block list",
            _ => null,
        };
        if (expected is not null)
        {
            throw Malformed(0, name, expected, $"{name} in phase {phase}{(recovery ? " after a reconnect" : "")}");
        }
    }

    private StreamRecordKind Apply(MigrationCommand command, ref WireReader payload)
    {
        switch (command)
        {
            case MigrationCommand.OpenReturnPath:
                _returnPathOpen = true;
                return StreamRecordKind.OpenReturnPath;
            case MigrationCommand.Ping:
                PingValue = payload.ReadUInt32("ping value");
                return StreamRecordKind.Ping;
            case MigrationCommand.PostcopyAdvise:
                return ApplyAdvise(ref payload);
            case MigrationCommand.PostcopyRamDiscard:
                return ApplyDiscard(ref payload);
            case MigrationCommand.Packaged:
                return ApplyPackaged(ref payload);
            case MigrationCommand.RecvBitmap:
                Block = ReadKnownBlock(ref payload, "RECV_BITMAP");
                return StreamRecordKind.ReceivedBitmapRequest;
            case MigrationCommand.PostcopyResume:
                _resumed = true;
                return StreamRecordKind.PostcopyResume;
            default:
                // SWITCHOVER_START is a marker.
                return StreamRecordKind.None;
        }
    }

    private StreamRecordKind ApplyAdvise(ref WireReader payload)
    {
        ulong pageSizes = payload.ReadUInt64("page sizes");
        long at = payload.Offset;
        ulong targetPageSize = payload.ReadUInt64("target page size");
        if (targetPageSize != (ulong)_state.TargetPageSize)
        {
            throw new MigrationStreamException(at, "POSTCOPY_ADVISE", $"target page size {_state.TargetPageSize}", $"{targetPageSize}");
        }

        if (pageSizes == 0 || (pageSizes & (targetPageSize - 1)) != 0)
        {
            throw new MigrationStreamException(
                at - sizeof(ulong), "POSTCOPY_ADVISE", $"page sizes that are multiples of {targetPageSize}", $"0x{pageSizes:x}");
        }

        _state.AdvisedPageSizes = pageSizes;
        _state.Phase = StreamPhase.Advise;
        return StreamRecordKind.PostcopyAdvise;
    }

    private StreamRecordKind ApplyDiscard(ref WireReader payload)
    {
        const string Name = "POSTCOPY_RAM_DISCARD";
        payload.ExpectByte(QemuWire.DiscardVersion, "version");
        StreamRamBlock block = ReadKnownBlock(ref payload, Name);
        payload.ExpectByte(0, "terminator of the block name");
        int count = payload.Remaining / DiscardRangeLength;
        if (count == 0 || payload.Remaining % DiscardRangeLength != 0)
        {
            throw new MigrationStreamException(
                payload.Offset, Name, $"one or more ranges of {DiscardRangeLength} bytes", $"{payload.Remaining} bytes");
        }

        if (_discards.Length < count)
        {
            // At most 4095: the command's length has two bytes.
            _discards = new DiscardRange[count];
        }

        for (int i = 0; i < count; i++)
        {
            long at = payload.Offset;
            ulong start = payload.ReadUInt64("start");
            ulong length = payload.ReadUInt64("length");
            ulong mask = (ulong)block.PageSize - 1;
            if (((start | length) & mask) != 0 || length == 0 || start > (ulong)block.Length || length > (ulong)block.Length - start)
            {
                throw new MigrationStreamException(
                    at, Name, $"whole pages of {block.PageSize} bytes inside '{block.Name}' of 0x{block.Length:x} bytes",
                    $"0x{start:x} + 0x{length:x}");
            }

            _discards[i] = new DiscardRange((long)start, (long)length);
        }

        _discardCount = count;
        Block = block;
        _state.Phase = StreamPhase.Discard;
        return StreamRecordKind.Discard;
    }

    private StreamRecordKind ApplyPackaged(ref WireReader payload)
    {
        long at = payload.Offset;
        uint length = payload.ReadUInt32("package length");
        if (length < DevicePackage.MinLength || length > _limits.MaxPackageLength)
        {
            throw new MigrationStreamException(
                at, PackagedName, $"a package of {DevicePackage.MinLength} to {_limits.MaxPackageLength} bytes", $"{length}");
        }

        _packageLength = (int)length;
        _step = Step.Package;
        return StreamRecordKind.None;
    }

    /// <summary>Reads the whole package, growing with what really comes and not with what was claimed.</summary>
    private bool ReadPackage(out StreamRecordKind kind)
    {
        kind = StreamRecordKind.None;
        if (!_mayFill)
        {
            return false;
        }

        long origin = _buffer.Offset;
        byte[] bytes = new byte[Math.Min(_packageLength, FirstPackageChunk)];
        int filled = 0;
        while (filled < _packageLength)
        {
            if (filled == bytes.Length)
            {
                Array.Resize(ref bytes, (int)Math.Min(_packageLength, bytes.Length * 2L));
            }

            filled += _buffer.Take(bytes.AsSpan(filled), PackagedName);
        }

        Package = DevicePackage.Parse(bytes, origin, _limits);
        _state.Phase = StreamPhase.Running;
        _step = Step.Record;
        kind = StreamRecordKind.Package;
        return true;
    }

    private StreamRamBlock ReadKnownBlock(ref WireReader payload, string section)
    {
        long at = payload.Offset;
        ReadOnlySpan<byte> name = payload.ReadName("block name");
        return _state.TryFindBlock(name, out StreamRamBlock? block)
            ? block
            : throw UnknownBlock(at, section, name);
    }

    private static MigrationStreamException UnknownBlock(long at, string section, ReadOnlySpan<byte> name) =>
        new(at, section, "the name of a RAM block", $"'{MigrationStreamState.DecodeName(name) ?? Convert.ToHexString(name)}'");
}
