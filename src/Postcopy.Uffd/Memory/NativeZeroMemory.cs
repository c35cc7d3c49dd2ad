using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd;

/// <summary>Anonymous memory of our own: zeroed, page-aligned, backed on first touch, never registered.</summary>
internal static class NativeZeroMemory
{
    internal static nuint Map(nuint bytes)
    {
        nuint address = Libc.mmap_anonymous(0, bytes, Libc.PROT_READ | Libc.PROT_WRITE,
            Libc.MAP_PRIVATE | Libc.MAP_ANONYMOUS | Libc.MAP_NORESERVE, -1, 0);
        return address != Libc.MAP_FAILED
            ? address
            : throw new OutOfMemoryException($"{bytes} bytes of bookkeeping memory could not be mapped; check RLIMIT_AS and vm.max_map_count.");
    }

    internal static void Unmap(nuint address, nuint bytes) => _ = Libc.munmap(address, bytes);
}
