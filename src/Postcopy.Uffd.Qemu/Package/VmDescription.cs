using System.Buffers.Binary;
using System.Text;
using System.Text.Json;

namespace Postcopy.Uffd.Qemu;

/// <summary>
/// The JSON text that QEMU appends to a migration that completes in precopy: every device with the wire size of its fields.
/// A postcopy stream has none, but the same machine saved once to a file has the same layout.
/// </summary>
public sealed class VmDescription
{
    /// <summary>A subsection's header on the wire: 0x05, the name's length, the name, a be32 version.</summary>
    private const int SubsectionHeader = 1 + 1 + sizeof(uint);
    private const int RecordHeader = 1 + sizeof(uint);
    private const int MaxDepth = 64;

    private readonly Dictionary<(string, uint), DeviceDescription> _devices;

    private VmDescription(int pageSize, List<DeviceDescription> devices)
    {
        PageSize = pageSize;
        Devices = devices;
        _devices = new Dictionary<(string, uint), DeviceDescription>(devices.Count);
        foreach (DeviceDescription device in devices)
        {
            _devices.TryAdd((device.Name, device.Instance), device);
        }
    }

    /// <summary>The target page size in bytes.</summary>
    public int PageSize { get; }

    /// <summary>The devices in the order of the stream.</summary>
    public IReadOnlyList<DeviceDescription> Devices { get; }

    /// <summary>Reads the JSON text.</summary>
    /// <param name="json">The text in UTF-8, without the record's header.</param>
    /// <exception cref="MigrationStreamException">It is too long, no JSON, or not a VM description.</exception>
    public static VmDescription Parse(ReadOnlySpan<byte> json) => Parse(json, 0);

    /// <summary>Reads the description from the end of a complete precopy stream, for example one saved by "exec:cat > file".</summary>
    /// <param name="stream">The last part of the stream, long enough to hold the description.</param>
    /// <exception cref="MigrationStreamException">There is none at the end.</exception>
    public static VmDescription ParseTrailing(ReadOnlySpan<byte> stream)
    {
        // EOF (00), then 06 and a length that reaches to the very end.
        ReadOnlySpan<byte> mark = [(byte)RecordType.Eof, (byte)RecordType.VmDescription];
        for (int at = stream.LastIndexOf(mark); at >= 0; at = stream[..(at + 1)].LastIndexOf(mark))
        {
            ReadOnlySpan<byte> record = stream[(at + 1)..];
            if (record.Length > RecordHeader
                && BinaryPrimitives.ReadUInt32BigEndian(record[1..]) == record.Length - RecordHeader
                && record[RecordHeader] == (byte)'{')
            {
                return Parse(record[RecordHeader..], at + 1 + RecordHeader);
            }
        }

        throw new MigrationStreamException(stream.Length, "VM description", "a VM description up to the end of the stream", "none");
    }

    /// <summary>Finds a device; null when it is not described.</summary>
    /// <param name="name">The section's name.</param>
    /// <param name="instance">The section's instance.</param>
    public DeviceDescription? Find(string name, uint instance) => _devices.GetValueOrDefault((name, instance));

    private static VmDescription Parse(ReadOnlySpan<byte> json, long origin)
    {
        int limit = ProtocolLimits.Default.MaxVmDescriptionLength;
        if (json.Length > limit)
        {
            throw new MigrationStreamException(origin, "VM description", $"at most {limit} bytes", $"{json.Length}");
        }

        try
        {
            using JsonDocument document = JsonDocument.Parse(
                Encoding.UTF8.GetString(json), new JsonDocumentOptions { MaxDepth = MaxDepth });
            JsonElement root = document.RootElement;
            List<DeviceDescription> devices = [];
            foreach (JsonElement device in root.GetProperty("devices").EnumerateArray())
            {
                devices.Add(ReadDevice(device));
            }

            int pageSize = root.TryGetProperty("page_size", out JsonElement size) ? size.GetInt32() : 1 << QemuWire.DefaultTargetPageBits;
            return new VmDescription(pageSize, devices);
        }
        catch (Exception e) when (e is JsonException or KeyNotFoundException or InvalidOperationException or FormatException or OverflowException)
        {
            throw new MigrationStreamException(origin, "VM description", "JSON with devices and field sizes", e.Message, e);
        }
    }

    private static DeviceDescription ReadDevice(JsonElement device)
    {
        string name = device.GetProperty("name").GetString() ?? throw new FormatException("a device without a name");
        uint instance = device.GetProperty("instance_id").GetUInt32();
        uint? version = device.TryGetProperty("version", out JsonElement v) ? v.GetUInt32() : null;
        return new DeviceDescription(name, instance, version, StateLength(device));
    }

    /// <summary>Fields and subsections; a field's size already holds what is nested in it.</summary>
    private static long StateLength(JsonElement state)
    {
        long length = 0;
        if (state.TryGetProperty("fields", out JsonElement fields))
        {
            foreach (JsonElement field in fields.EnumerateArray())
            {
                long size = field.GetProperty("size").GetInt64();
                long count = field.TryGetProperty("array_len", out JsonElement elements) ? elements.GetInt64() : 1;
                if (size < 0 || count < 0)
                {
                    throw new FormatException("a negative size");
                }

                length = checked(length + (size * count));
            }
        }

        if (state.TryGetProperty("subsections", out JsonElement subsections))
        {
            foreach (JsonElement subsection in subsections.EnumerateArray())
            {
                string name = subsection.GetProperty("vmsd_name").GetString() ?? throw new FormatException("a subsection without a name");
                length = checked(length + SubsectionHeader + Encoding.UTF8.GetByteCount(name) + StateLength(subsection));
            }
        }

        return length;
    }
}
