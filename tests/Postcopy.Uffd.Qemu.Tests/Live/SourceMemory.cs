using System.Globalization;
using Microsoft.Win32.SafeHandles;

namespace Postcopy.Uffd.Qemu.Tests.Live;

/// <summary>
/// The RAM blocks of a QEMU process as they lie in its memory, to compare ours with: pmemsave shows the guest's address space,
/// in which some blocks are hidden in part and others, such as ACPI tables, are not at all.
/// </summary>
internal static class SourceMemory
{
    // QEMU maps a block on its own, at a multiple of this unless it is a file's.
    private const ulong Alignment = 2 << 20;
    private const int Page = 4096;
    private const int Chunk = 1 << 20;

    /// <summary>Each block is somewhere in the process, whole and equal. Its guest must be stopped.</summary>
    internal static void AssertHolds(int process, IReadOnlyList<RamBlock> blocks)
    {
        using SafeFileHandle memory = File.OpenHandle($"/proc/{process}/mem");
        (ulong Start, ulong End)[] mappings = [.. File.ReadLines($"/proc/{process}/maps").Where(IsReadable).Select(Range)];
        Assert.All(blocks, block =>
        {
            byte[] content = new byte[block.UsedLength];
            block.Read(0, content);
            Assert.True(mappings.Any(m => Holds(memory, m, content)), $"The source has no memory equal to RAM block '{block.Name}' of {block.UsedLength} bytes.");

            // One bit in the last byte would have been noticed.
            content[^1] ^= 1;
            Assert.DoesNotContain(mappings, m => Holds(memory, m, content));
        });
    }

    private static bool Holds(SafeFileHandle memory, (ulong Start, ulong End) mapping, ReadOnlyMemory<byte> content)
    {
        ulong length = (ulong)content.Length;
        for (ulong at = mapping.Start; at + length <= mapping.End; at = (at / Alignment * Alignment) + Alignment)
        {
            if (IsEqual(memory, (long)at, content.Span))
            {
                return true;
            }
        }

        return false;
    }

    private static bool IsEqual(SafeFileHandle memory, long at, ReadOnlySpan<byte> content)
    {
        byte[] found = new byte[Chunk];
        int next = Page;
        for (int offset = 0; offset < content.Length; offset += next, next = Chunk)
        {
            Span<byte> piece = found.AsSpan(0, Math.Min(next, content.Length - offset));
            next = piece.Length;
            if (!TryRead(memory, at + offset, piece) || !piece.SequenceEqual(content.Slice(offset, piece.Length)))
            {
                return false;
            }
        }

        return true;
    }

    private static bool TryRead(SafeFileHandle memory, long at, Span<byte> into)
    {
        try
        {
            return RandomAccess.Read(memory, into, at) == into.Length;
        }
        catch (IOException)
        {
            // Beyond the end of a mapped file.
            return false;
        }
    }

    /// <summary>Not the kernel's own, such as [vvar], which cannot be read from outside.</summary>
    private static bool IsReadable(string line) => line.Split(' ')[1][0] == 'r' && !line.EndsWith(']');

    private static (ulong Start, ulong End) Range(string line)
    {
        string[] bounds = line.Split(' ')[0].Split('-');
        return (ulong.Parse(bounds[0], NumberStyles.HexNumber, CultureInfo.InvariantCulture), ulong.Parse(bounds[1], NumberStyles.HexNumber, CultureInfo.InvariantCulture));
    }
}
