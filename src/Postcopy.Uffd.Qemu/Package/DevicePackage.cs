using System.Buffers.Binary;

namespace Postcopy.Uffd.Qemu;

/// <summary>
/// The device state that a postcopy source sends in one piece, between LISTEN and RUN. The bytes are kept as they came;
/// a host that knows the devices, or has a VM description, can split them.
/// </summary>
public sealed class DevicePackage
{
    private const string Section = "package";
    private const int CommandLength = 5;
    private const int PingLength = CommandLength + sizeof(uint);
    private const int FooterLength = 1 + sizeof(uint);

    /// <summary>The shortest package: LISTEN and RUN.</summary>
    internal const int MinLength = 2 * CommandLength;

    private readonly long _origin;
    private readonly ProtocolLimits _limits;

    private DevicePackage(byte[] bytes, long origin, ReadOnlyMemory<byte> devices, uint[] pings, ProtocolLimits limits)
    {
        Bytes = bytes;
        _origin = origin;
        DeviceState = devices;
        Pings = pings;
        _limits = limits;
    }

    /// <summary>The whole package, LISTEN and RUN included.</summary>
    public ReadOnlyMemory<byte> Bytes { get; }

    /// <summary>The device sections alone.</summary>
    public ReadOnlyMemory<byte> DeviceState { get; }

    /// <summary>The values of the PINGs before RUN, in their order; each wants a PONG.</summary>
    public IReadOnlyList<uint> Pings { get; }

    /// <summary>True when the source waits for the PONG of <see cref="QemuWire.PingPointOfNoReturn"/> before it gives up its own guest.</summary>
    public bool HasPointOfNoReturn => Pings.Contains(QemuWire.PingPointOfNoReturn);

    /// <summary>Reads a package that was kept in a file.</summary>
    /// <param name="bytes">What <see cref="Bytes"/> was.</param>
    /// <exception cref="MigrationStreamException">It is not a package.</exception>
    public static DevicePackage Parse(ReadOnlySpan<byte> bytes) => Parse(bytes.ToArray(), 0, ProtocolLimits.Default);

    internal static DevicePackage Parse(byte[] bytes, long origin, ProtocolLimits limits)
    {
        ReadOnlySpan<byte> all = bytes;
        if (all.Length < MinLength || !IsCommand(all, MigrationCommand.PostcopyListen, 0))
        {
            throw new MigrationStreamException(origin, Section, "POSTCOPY_LISTEN at the beginning of the package", Hex(all[..Math.Min(all.Length, CommandLength)]));
        }

        int end = all.Length - CommandLength;
        if (!IsCommand(all[end..], MigrationCommand.PostcopyRun, 0))
        {
            throw new MigrationStreamException(origin + end, Section, "POSTCOPY_RUN at the end of the package", Hex(all[end..]));
        }

        // Backwards, because sections do not tell their length. A section's footer in front (7e and its id) cannot look like
        // a PING: the footer's first byte stands where the PING has the low byte of its length.
        List<uint> pings = [];
        while (end - PingLength >= CommandLength && IsCommand(all[(end - PingLength)..], MigrationCommand.Ping, sizeof(uint)))
        {
            pings.Insert(0, BinaryPrimitives.ReadUInt32BigEndian(all[(end - sizeof(uint))..]));
            end -= PingLength;
        }

        return new DevicePackage(bytes, origin, bytes.AsMemory(CommandLength, end - CommandLength), [.. pings], limits);
    }

    /// <summary>Splits the device state into its sections.</summary>
    /// <param name="description">
    /// The lengths, from a VM description of the same machine. Without it a section is taken to end where a footer with its
    /// own id is followed by the next section or the end: right for real devices, but a guess.
    /// </param>
    /// <exception cref="MigrationStreamException">The sections do not fit the description, or are no sections at all.</exception>
    public IReadOnlyList<DeviceSection> Split(VmDescription? description = null)
    {
        List<DeviceSection> sections = [];
        int at = 0;
        while (at < DeviceState.Length)
        {
            if (sections.Count == _limits.MaxPackageSections)
            {
                throw new MigrationStreamException(
                    DeviceOrigin + at, Section, $"at most {_limits.MaxPackageSections} sections", "one more");
            }

            sections.Add(ReadSection(ref at, description));
        }

        return sections;
    }

    private long DeviceOrigin => _origin + CommandLength;

    private DeviceSection ReadSection(ref int at, VmDescription? description)
    {
        WireReader reader = new(DeviceState.Span[at..], DeviceOrigin + at, Section);
        reader.ExpectByte((byte)RecordType.SectionFull, "device section");
        uint id = reader.ReadUInt32("section id");
        long nameAt = reader.Offset;
        string name = reader.ReadNameText("section name");
        uint instance = reader.ReadUInt32("instance");
        uint version = reader.ReadUInt32("version");
        int bodyAt = at + reader.Position;
        int length;
        if (description is null)
        {
            length = GuessBodyLength(bodyAt, id)
                ?? throw new MigrationStreamException(nameAt, Section, $"a footer of '{name}' (7e{id:x8})", "none");
        }
        else
        {
            DeviceDescription device = description.Find(name, instance)
                ?? throw new MigrationStreamException(nameAt, Section, "a device of the VM description", $"'{name}' instance {instance}");
            if (device.Version is { } known && known != version)
            {
                throw new MigrationStreamException(nameAt, Section, $"version {known} of '{name}'", $"{version}");
            }

            length = (int)Math.Min(device.Length, int.MaxValue);
        }

        _ = reader.ReadBytes(length, $"the state of '{name}'");
        reader.ExpectByte((byte)RecordType.SectionFooter, $"footer of '{name}'");
        reader.ExpectUInt32(id, $"footer's section id of '{name}'");
        at = bodyAt + length + FooterLength;
        return new DeviceSection(name, instance, version, id, DeviceState.Slice(bodyAt, length));
    }

    private int? GuessBodyLength(int bodyAt, uint id)
    {
        Span<byte> footer = stackalloc byte[FooterLength];
        footer[0] = (byte)RecordType.SectionFooter;
        BinaryPrimitives.WriteUInt32BigEndian(footer[1..], id);
        ReadOnlySpan<byte> state = DeviceState.Span;
        int from = bodyAt;
        while (true)
        {
            int found = state[from..].IndexOf(footer);
            if (found < 0)
            {
                return null;
            }

            int next = from + found + FooterLength;
            if (next == state.Length || state[next] == (byte)RecordType.SectionFull)
            {
                return from + found - bodyAt;
            }

            from += found + 1;
        }
    }

    private static bool IsCommand(ReadOnlySpan<byte> bytes, MigrationCommand command, int length) =>
        bytes.Length >= CommandLength + length
        && bytes[0] == (byte)RecordType.Command
        && BinaryPrimitives.ReadUInt16BigEndian(bytes[1..]) == (ushort)command
        && BinaryPrimitives.ReadUInt16BigEndian(bytes[3..]) == length;

    private static string Hex(ReadOnlySpan<byte> bytes) => bytes.IsEmpty ? "nothing" : Convert.ToHexStringLower(bytes);
}
