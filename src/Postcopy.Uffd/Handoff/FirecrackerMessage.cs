using System.Text.Json;

namespace Postcopy.Uffd;

/// <summary>
/// The handshake that Firecracker sends to the handler at its socket: one JSON array of regions, without an end mark,
/// and the userfaultfd beside its first byte (docs/snapshotting/handling-page-faults-on-snapshot-resume.md and
/// GuestRegionUffdMapping in src/vmm/src/persist.rs of firecracker-microvm/firecracker). There is no answer.
/// </summary>
internal static class FirecrackerMessage
{
    internal const int MaxBytes = 1 << 16;
    internal const int MaxRegions = 256;

    /// <summary>True when the bytes are a whole JSON value; false when more must come.</summary>
    /// <exception cref="HandoffException">They are no JSON.</exception>
    internal static bool IsWhole(ReadOnlySpan<byte> bytes)
    {
        Utf8JsonReader reader = new(bytes, isFinalBlock: false, state: default);
        try
        {
            return reader.Read() && reader.TrySkip();
        }
        catch (JsonException e)
        {
            throw new HandoffException($"The message begins as Firecracker's handshake and is no JSON: {e.Message}", e);
        }
    }

    /// <summary>The regions; numbers that Firecracker writes in bytes under the name page_size_kib are taken as bytes.</summary>
    /// <exception cref="HandoffException">Something in it is not acceptable.</exception>
    internal static IReadOnlyList<HandoffBlock> Decode(ReadOnlyMemory<byte> bytes)
    {
        using JsonDocument document = Parse(bytes);
        List<HandoffBlock> blocks = [];
        if (document.RootElement.ValueKind != JsonValueKind.Array)
        {
            throw new HandoffException("Firecracker's handshake is not an array of regions.");
        }

        foreach (JsonElement region in document.RootElement.EnumerateArray())
        {
            string name = $"region {blocks.Count}";
            if (region.ValueKind != JsonValueKind.Object || blocks.Count == MaxRegions)
            {
                throw new HandoffException($"Firecracker's handshake has 1 to {MaxRegions} regions, each an object; {name} is not.");
            }

            // Older versions have page_size_kib only: bytes, whatever its name says. A true number of KiB is too small to be bytes.
            ulong pageBytes = Number(region, "page_size", name, optional: true) ?? Number(region, "page_size_kib", name, optional: true) ?? (ulong)PageSize.Host.Bytes;
            (AddressRange range, PageSize pageSize) = HandoffMessage.CheckedRange(name, Number(region, "base_host_virt_addr", name)!.Value,
                Number(region, "size", name)!.Value, pageBytes < 4096 ? pageBytes << 10 : pageBytes);
            ulong offset = Number(region, "offset", name)!.Value;
            if (offset > long.MaxValue - (ulong)range.Length)
            {
                throw new HandoffException($"Firecracker's handshake puts the content of {name} at offset {offset}.");
            }

            UffdOperations operations = UffdOperations.Copy | UffdOperations.Wake | UffdOperations.Poison |
                (pageSize == PageSize.Host ? UffdOperations.Zeropage : UffdOperations.None);
            blocks.Add(new HandoffBlock(name, range, pageSize, (long)offset, UffdModes.Missing, operations, BitmapOffset: 0, Memory: -1, Shared: false));
        }

        return blocks.Count > 0 ? blocks : throw new HandoffException("Firecracker's handshake has no region.");
    }

    private static JsonDocument Parse(ReadOnlyMemory<byte> bytes)
    {
        try
        {
            return JsonDocument.Parse(bytes, new JsonDocumentOptions { MaxDepth = 8 });
        }
        catch (JsonException e)
        {
            throw new HandoffException($"Firecracker's handshake is no JSON: {e.Message}", e);
        }
    }

    private static ulong? Number(JsonElement region, string property, string name, bool optional = false)
    {
        if (!region.TryGetProperty(property, out JsonElement value))
        {
            return optional ? null : throw new HandoffException($"Firecracker's handshake gives {name} no {property}.");
        }

        return value.ValueKind == JsonValueKind.Number && value.TryGetUInt64(out ulong number)
            ? number
            : throw new HandoffException($"Firecracker's handshake gives {name} a {property} that is no whole number of 64 bits.");
    }
}
