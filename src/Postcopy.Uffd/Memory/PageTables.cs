using Microsoft.Win32.SafeHandles;
using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd;

/// <summary>
/// Whether a page is there, from <c>/proc/self/pagemap</c>: bit 63 present, bit 62 swapped
/// (Documentation/admin-guide/mm/pagemap.rst; readable without privilege). It does not fault.
/// </summary>
internal static class PageTables
{
    private static readonly SafeFileHandle s_pagemap = Libc.open("/proc/self/pagemap", Libc.O_RDONLY | Libc.O_CLOEXEC);

    internal static bool IsPresent(nuint address) => IsPresent(s_pagemap, address);

    /// <summary>The page tables of another process; needs the right to read its /proc files (same user, or CAP_SYS_PTRACE).</summary>
    internal static SafeFileHandle OfProcess(int pid) =>
        Libc.open(string.Create(System.Globalization.CultureInfo.InvariantCulture, $"/proc/{pid}/pagemap"), Libc.O_RDONLY | Libc.O_CLOEXEC);

    /// <summary>
    /// True when a range of whole huge pages is mapped by huge pages throughout, with <paramref name="zero"/> by the kernel's huge zero
    /// page (Linux 6.7; false before). It does not fault.
    /// </summary>
    internal static unsafe bool IsHuge(nuint start, nuint length, bool zero = false)
    {
        ulong wanted = PagemapScan.PAGE_IS_HUGE | (zero ? PagemapScan.PAGE_IS_PFNZERO : 0);
        PagemapScan.page_region region = default;
        PagemapScan.pm_scan_arg scan = new()
        {
            size = (ulong)sizeof(PagemapScan.pm_scan_arg),
            start = start,
            end = start + length,
            vec = (ulong)&region,
            vec_len = 1,
            category_mask = wanted,
            return_mask = wanted,
        };
        // SAFETY: the kernel writes at most one region, a local; neighbours of the same kind come as one.
        return !s_pagemap.IsInvalid && Libc.ioctl(s_pagemap, PagemapScan.PAGEMAP_SCAN, &scan) == 1 &&
            region.start == start && region.end == start + length;
    }

    /// <summary>Pages of a range that have memory of their own: neither absent nor the zero page. All, where the kernel cannot tell.</summary>
    internal static unsafe long CountFilled(nuint start, nuint length)
    {
        const int Regions = 512;
        PagemapScan.page_region* regions = stackalloc PagemapScan.page_region[Regions];
        PagemapScan.pm_scan_arg scan = new()
        {
            size = (ulong)sizeof(PagemapScan.pm_scan_arg),
            start = start,
            end = start + length,
            vec = (ulong)regions,
            vec_len = Regions,
            category_inverted = PagemapScan.PAGE_IS_PFNZERO,
            category_mask = PagemapScan.PAGE_IS_PFNZERO,
            category_anyof_mask = PagemapScan.PAGE_IS_PRESENT | PagemapScan.PAGE_IS_SWAPPED,
            return_mask = PagemapScan.PAGE_IS_PRESENT,
        };
        // SAFETY: the kernel writes at most Regions regions, locals; 512 pages cannot have more.
        int found = s_pagemap.IsInvalid ? -1 : Libc.ioctl(s_pagemap, PagemapScan.PAGEMAP_SCAN, &scan);
        long filled = found < 0 ? (long)length : 0;
        for (int i = 0; i < found; i++)
        {
            filled += (long)(regions[i].end - regions[i].start);
        }

        return filled >> PageSize.Host.Shift;
    }

    internal static unsafe bool IsPresent(SafeFileHandle pagemap, nuint address)
    {
        ulong entry = 0;
        long offset = (long)((ulong)address >> PageSize.Host.Shift) * sizeof(ulong);
        // SAFETY: the kernel writes at most the eight bytes of the local.
        nint n = pagemap.IsInvalid ? 0 : Libc.pread(pagemap, &entry, sizeof(ulong), offset);
        return n == sizeof(ulong) && (entry >> 62) != 0;
    }
}
