using System.Globalization;

namespace Postcopy.Uffd;

/// <summary>Reads the mappings of this process from <c>/proc/self/maps</c> and <c>smaps</c>. Cold.</summary>
internal static class ProcessMaps
{
    /// <summary>One mapping.</summary>
    internal readonly record struct Mapping(AddressRange Range, bool Shared, bool HasFile, string Flags)
    {
        /// <summary>True when mlock(2) or mlockall(2) holds it (flag <c>lo</c> of VmFlags, proc(5)).</summary>
        internal bool IsLocked => Flags.Contains(" lo", StringComparison.Ordinal);

        /// <summary>True for hugetlb memory (flag <c>ht</c>).</summary>
        internal bool IsHugetlb => Flags.Contains(" ht", StringComparison.Ordinal);

        /// <summary>True when transparent huge pages are switched off for it (flag <c>nh</c>).</summary>
        internal bool RefusesHugePages => Flags.Contains(" nh", StringComparison.Ordinal);

        /// <summary>True when a userfaultfd has it for missing faults (flag <c>um</c>).</summary>
        internal bool IsRegisteredMissing => Flags.Contains(" um", StringComparison.Ordinal);
    }

    internal static bool IsAnonymousPrivate(AddressRange range)
    {
        bool any = false;
        foreach (Mapping m in Overlapping(range, withFlags: false))
        {
            any = true;
            if (m.Shared || m.HasFile)
            {
                return false;
            }
        }

        return any;
    }

    /// <summary>The mappings that share a byte with the range; with flags it costs a walk of the page tables.</summary>
    internal static List<Mapping> Overlapping(AddressRange range, bool withFlags)
    {
        List<Mapping> found = [];
        Mapping? open = null;
        foreach (string line in File.ReadLines(withFlags ? "/proc/self/smaps" : "/proc/self/maps"))
        {
            if (TryParseHeader(line, out Mapping header))
            {
                if (header.Range.Start >= range.End)
                {
                    break;
                }

                open = header.Range.Overlaps(range) ? header : null;
                if (open is not null && !withFlags)
                {
                    found.Add(header);
                }
            }
            else if (open is { } mapping && line.StartsWith("VmFlags:", StringComparison.Ordinal))
            {
                found.Add(mapping with { Flags = line["VmFlags:".Length..] });
                open = null;
            }
        }

        return found;
    }

    /// <summary>All mappings of the process.</summary>
    internal static List<Mapping> All(bool withFlags) => Overlapping(new AddressRange(0, nuint.MaxValue), withFlags);

    /// <summary>
    /// True when some memory of this process is locked: VmLck of <c>/proc/self/status</c>, a counter (proc(5)). Asked first, because
    /// which memory that is costs a walk of all page tables.
    /// </summary>
    internal static bool IsAnyLocked()
    {
        foreach (string line in File.ReadLines("/proc/self/status"))
        {
            if (line.StartsWith("VmLck:", StringComparison.Ordinal))
            {
                return line.AsSpan("VmLck:".Length).Trim().ToString() != "0 kB";
            }
        }

        return true;
    }

    internal static int CountMappings() => File.ReadLines("/proc/self/maps").Count();

    private static bool TryParseHeader(string line, out Mapping mapping)
    {
        // Anonymous hugetlb memory shows an inode too (/anon_hugepage). "7f0000000000-7f0000200000 rw-s 00000000 00:01 1024   /memfd:guest-ram (deleted)"
        mapping = default;
        int dash = line.IndexOf('-', StringComparison.Ordinal);
        int space = line.IndexOf(' ', StringComparison.Ordinal);
        if (dash <= 0 || space < dash ||
            !ulong.TryParse(line.AsSpan(0, dash), NumberStyles.HexNumber, CultureInfo.InvariantCulture, out ulong start) ||
            !ulong.TryParse(line.AsSpan(dash + 1, space - dash - 1), NumberStyles.HexNumber, CultureInfo.InvariantCulture, out ulong end))
        {
            return false;
        }

        string[] parts = line.Split(' ', 6, StringSplitOptions.RemoveEmptyEntries);
        bool hasFile = parts.Length > 4 && parts[4] != "0";
        mapping = new Mapping(new AddressRange((nuint)start, (nuint)(end - start)), parts[1].EndsWith('s'), hasFile, string.Empty);
        return true;
    }
}
