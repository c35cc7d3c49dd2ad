using System.Buffers.Binary;
using System.IO.Hashing;

namespace Postcopy.Uffd.Qemu;

/// <summary>
/// What a <see cref="QemuSource"/> with <see cref="QemuSourceOptions.PageChecksums"/> puts between a page record's head and
/// its payload. Our own addition to the wire, marked by <see cref="RamFlags.Checksum"/>; QEMU neither sends nor takes it.
/// </summary>
/// <remarks>
/// Twelve bytes: the low 32 bits of the head's XXH3, which show whether the record is the page it claims to be, then the
/// payload's XXH3 (64 bits), seeded with the page's offset. XXH3 finds accidents; it is no protection from an attacker.
/// </remarks>
internal static class PageChecksum
{
    internal const int Length = sizeof(uint) + sizeof(ulong);

    internal static void Write(Span<byte> into, ReadOnlySpan<byte> head, ReadOnlySpan<byte> payload, long offset)
    {
        BinaryPrimitives.WriteUInt32BigEndian(into, OfHead(head));
        BinaryPrimitives.WriteUInt64BigEndian(into[sizeof(uint)..], OfPayload(payload, offset));
    }

    internal static uint OfHead(ReadOnlySpan<byte> head) => (uint)XxHash3.HashToUInt64(head);

    internal static ulong OfPayload(ReadOnlySpan<byte> payload, long offset) => XxHash3.HashToUInt64(payload, offset);
}
