using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd;

/// <summary>
/// One GiB of readable zeros that costs no memory: an untouched read-only private mapping, of which every page reads
/// as the kernel's one zero page. The source of COPY where the memory has no ZEROPAGE (hazard H17).
/// </summary>
internal static class ZeroSource
{
    internal const long Bytes = 1L << 30;

    internal static nuint Address { get; } = Map();

    private static nuint Map()
    {
        nuint address = Libc.mmap_anonymous(0, (nuint)Bytes, Libc.PROT_READ, Libc.MAP_PRIVATE | Libc.MAP_ANONYMOUS | Libc.MAP_NORESERVE, -1, 0);
        if (address == Libc.MAP_FAILED)
        {
            throw new OutOfMemoryException("1 GiB of address space for the zero source could not be mapped; check RLIMIT_AS.");
        }

        // A huge zero page would cost memory for nothing.
        _ = Libc.madvise(address, (nuint)Bytes, Libc.MADV_NOHUGEPAGE);
        return address;
    }
}
