using System.Buffers.Binary;

namespace Postcopy.Uffd;

/// <content>
/// The form in which a received bitmap crosses the wire at recovery: one bit per <em>target</em> page (4 KiB), also
/// for blocks of huge pages; bit i%8 of byte i/8; size rounded up to 8 bytes; padding bits 0 (qemu-wire.md 5.3).
/// </content>
public sealed unsafe partial class PageBitmap
{
    /// <summary>Bytes of the wire's form.</summary>
    /// <param name="targetPagesPerPage">Target pages in one page of this bitmap; a power of two, 1 when both are 4 KiB.</param>
    public long WireSize(int targetPagesPerPage)
    {
        CheckFactor(targetPagesPerPage);
        return checked((Length * targetPagesPerPage) + 63) / 64 * 8;
    }

    /// <summary>
    /// Writes a part of the wire's form, so that bitmaps larger than a buffer can be sent in pieces.
    /// </summary>
    /// <param name="wireOffset">First byte; a multiple of 8.</param>
    /// <param name="into">Where it goes; a multiple of 8 bytes, inside the wire's form.</param>
    /// <param name="targetPagesPerPage">As for <see cref="WireSize"/>.</param>
    /// <exception cref="ArgumentOutOfRangeException">The part is not inside the wire's form or not aligned.</exception>
    public void Export(long wireOffset, Span<byte> into, int targetPagesPerPage)
    {
        CheckPart(wireOffset, into.Length, targetPagesPerPage);
        for (int i = 0; i < into.Length; i += 8)
        {
            long firstBit = (wireOffset + i) * 8;
            BinaryPrimitives.WriteUInt64LittleEndian(into[i..],
                targetPagesPerPage == 1 ? LoadWord(firstBit / 64) : Expand(firstBit, targetPagesPerPage));
        }
    }

    /// <summary>
    /// Reads a part of the wire's form and sets the bits whose target pages are all set; bits of a page that is only
    /// partly there stay clear.
    /// </summary>
    /// <param name="wireOffset">First byte; a multiple of 8 and of a whole page of this bitmap.</param>
    /// <param name="from">The bytes; whole pages of this bitmap unless it is the end.</param>
    /// <param name="targetPagesPerPage">As for <see cref="WireSize"/>.</param>
    /// <exception cref="ArgumentOutOfRangeException">The part is not inside the wire's form or not aligned.</exception>
    public void Import(long wireOffset, ReadOnlySpan<byte> from, int targetPagesPerPage)
    {
        CheckPart(wireOffset, from.Length, targetPagesPerPage);
        long firstBit = wireOffset * 8;
        long bits = Math.Min(from.Length * 8L, (Length * targetPagesPerPage) - firstBit);
        if (firstBit % targetPagesPerPage != 0 || bits % targetPagesPerPage != 0)
        {
            throw new ArgumentOutOfRangeException(nameof(wireOffset),
                $"{from.Length} bytes from {wireOffset} cut a page: a page has {targetPagesPerPage} bits, so a part has a multiple of {Math.Max(8, targetPagesPerPage / 8)} bytes.");
        }

        for (long bit = 0; bit + targetPagesPerPage <= bits; bit += targetPagesPerPage)
        {
            bool all = true;
            for (long t = bit; all && t < bit + targetPagesPerPage; t++)
            {
                all = (from[(int)(t / 8)] & (1 << (int)(t % 8))) != 0;
            }

            if (all)
            {
                _ = TestAndSet((firstBit + bit) / targetPagesPerPage);
            }
        }
    }

    private ulong Expand(long firstBit, int factor)
    {
        ulong word = 0;
        for (int b = 0; b < 64;)
        {
            long page = (firstBit + b) / factor;
            int run = (int)Math.Min(64 - b, ((page + 1) * factor) - (firstBit + b));
            if (page < Length && Test(page))
            {
                word |= (run == 64 ? ulong.MaxValue : (1UL << run) - 1) << b;
            }

            b += run;
        }

        return word;
    }

    private void CheckPart(long wireOffset, int length, int targetPagesPerPage)
    {
        long size = WireSize(targetPagesPerPage);
        if ((wireOffset & 7) != 0 || (length & 7) != 0 || wireOffset < 0 || wireOffset > size - length)
        {
            throw new ArgumentOutOfRangeException(nameof(wireOffset),
                $"{length} bytes from {wireOffset} are not an 8-byte-aligned part of a wire bitmap of {size} bytes.");
        }
    }

    private static void CheckFactor(int targetPagesPerPage)
    {
        if (targetPagesPerPage <= 0 || (targetPagesPerPage & (targetPagesPerPage - 1)) != 0)
        {
            throw new ArgumentOutOfRangeException(nameof(targetPagesPerPage), targetPagesPerPage, "Target pages in a page: a power of two.");
        }
    }
}
