using System.Runtime.InteropServices;

namespace Postcopy.Uffd.Interop;

/// <summary>PAGEMAP_SCAN of <c>linux/fs.h</c> (Linux 6.7): what a range of /proc/PID/pagemap is made of.</summary>
internal static class PagemapScan
{
    internal const nuint PAGEMAP_SCAN = unchecked((nuint)0xC0606610);
    internal const ulong PAGE_IS_PRESENT = 1 << 3;
    internal const ulong PAGE_IS_SWAPPED = 1 << 4;
    internal const ulong PAGE_IS_PFNZERO = 1 << 5;
    internal const ulong PAGE_IS_HUGE = 1 << 6;

    [StructLayout(LayoutKind.Sequential)]
    internal struct pm_scan_arg
    {
        internal ulong size;
        internal ulong flags;
        internal ulong start;
        internal ulong end;
        internal ulong walk_end;
        internal ulong vec;
        internal ulong vec_len;
        internal ulong max_pages;
        internal ulong category_inverted;
        internal ulong category_mask;
        internal ulong category_anyof_mask;
        internal ulong return_mask;
    }

    [StructLayout(LayoutKind.Sequential)]
    internal struct page_region
    {
        internal ulong start;
        internal ulong end;
        internal ulong categories;
    }
}
