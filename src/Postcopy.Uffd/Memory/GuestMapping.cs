using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;
using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd;

/// <summary>The mmap work behind <see cref="GuestMemory"/>.</summary>
internal static class GuestMapping
{
    internal static SafeFileHandle CreateFile(GuestMemoryOptions options, PageSize pageSize)
    {
        uint flags = Libc.MFD_CLOEXEC;
        if (options.Kind == GuestMemoryKind.Hugetlb)
        {
            flags |= Libc.MFD_HUGETLB | ((uint)pageSize.Shift << Libc.MAP_HUGE_SHIFT);
        }

        SafeFileHandle file = Libc.memfd_create(options.Name, flags);
        if (file.IsInvalid || Libc.ftruncate(file, options.Length) != 0)
        {
            int errno = Marshal.GetLastPInvokeError();
            file.Dispose();
            throw new GuestMemoryException("memfd_create", errno,
                $"A memfd of {options.Length} bytes in pages of {pageSize} could not be made: {Errno.Describe(errno)}." +
                (options.Kind == GuestMemoryKind.Hugetlb ? HugetlbRemedy(options.Length, pageSize) : string.Empty));
        }

        return file;
    }

    /// <summary>
    /// Reserves more address space than needed, lays the mapping where host and guest-physical address agree modulo
    /// the huge page size, and gives the rest back: a plain mmap practically never is so aligned (placement.md).
    /// </summary>
    internal static nuint Map(GuestMemoryOptions options, PageSize pageSize, SafeFileHandle? file)
    {
        long alignment = Math.Max(pageSize.Bytes, PageSize.TwoMiB.Bytes);
        nuint length = (nuint)options.Length;
        nuint reserved = length + (nuint)alignment;
        int reservation = Libc.MAP_PRIVATE | Libc.MAP_ANONYMOUS | (options.Kind == GuestMemoryKind.Anonymous ? 0 : Libc.MAP_NORESERVE);
        nuint area = Libc.mmap_anonymous(0, reserved, Libc.PROT_NONE, reservation, -1, 0);
        if (area == Libc.MAP_FAILED)
        {
            throw Failed(options, pageSize, Marshal.GetLastPInvokeError());
        }

        nuint phase = (nuint)options.GuestPhysicalAddress & (nuint)(alignment - 1);
        nuint address = ((area + (nuint)alignment - 1 - phase) & ~(nuint)(alignment - 1)) + phase;

        if (!Back(address, length, options, pageSize, file))
        {
            int errno = Marshal.GetLastPInvokeError();
            _ = Libc.munmap(area, reserved);
            throw Failed(options, pageSize, errno);
        }

        if (address > area)
        {
            _ = Libc.munmap(area, address - area);
        }

        nuint end = address + length;
        if (area + reserved > end)
        {
            _ = Libc.munmap(end, area + reserved - end);
        }

        return address;
    }

    private static bool Back(nuint address, nuint length, GuestMemoryOptions options, PageSize pageSize, SafeFileHandle? file)
    {
        const int protection = Libc.PROT_READ | Libc.PROT_WRITE;
        if (options.Kind == GuestMemoryKind.Anonymous)
        {
            // The reservation itself becomes the memory. A mapping put over it could fail after the kernel (before
            // 6.12) took the old one away, and unmapping the area then might hit another thread's new mapping.
            return Libc.mprotect(address, length, protection) == 0;
        }

        // Huge pages are reserved here: a pool that runs dry later would answer EEXIST for absent pages (hazard H7).
        nuint mapped = file is null
            ? Libc.mmap_anonymous(address, length, protection,
                Libc.MAP_FIXED | Libc.MAP_PRIVATE | Libc.MAP_ANONYMOUS | Libc.MAP_HUGETLB | (pageSize.Shift << Libc.MAP_HUGE_SHIFT), -1, 0)
            : Libc.mmap(address, length, protection, Libc.MAP_FIXED | Libc.MAP_SHARED, file, 0);
        return mapped != Libc.MAP_FAILED;
    }

    internal static void Advise(AddressRange range, GuestMemoryKind kind, bool incomplete)
    {
        // Best effort: each of these is a protection or a speed-up, and none is needed for right content.
        _ = Libc.madvise(range.Start, range.Length, incomplete ? Libc.MADV_DONTFORK : Libc.MADV_DOFORK);
        _ = Libc.madvise(range.Start, range.Length, incomplete ? Libc.MADV_DONTDUMP : Libc.MADV_DODUMP);
        if (kind != GuestMemoryKind.Hugetlb)
        {
            _ = Libc.madvise(range.Start, range.Length, incomplete ? Libc.MADV_NOHUGEPAGE : Libc.MADV_HUGEPAGE);
        }
    }

    private static GuestMemoryException Failed(GuestMemoryOptions options, PageSize pageSize, int errno) =>
        new("mmap", errno,
            $"{options.Length} bytes of {options.Kind} memory in pages of {pageSize} could not be mapped: {Errno.Describe(errno)}." +
            (options.Kind == GuestMemoryKind.Hugetlb
                ? HugetlbRemedy(options.Length, pageSize)
                : " Check RLIMIT_AS, vm.overcommit_memory and vm.max_map_count."));

    private static string HugetlbRemedy(long length, PageSize pageSize)
    {
        HugePagePool pool = HugePagePool.Read(pageSize);
        long needed = length / pageSize.Bytes;
        return pool.Exists
            ? $" The pool of {pageSize} pages has {pool.Available} available ({pool.Free} free, {pool.Reserved} reserved by others), {needed} are needed:" +
              $" echo {pool.Total + needed - pool.Available} > {pool.Path}/nr_hugepages"
            : $" This kernel has no pool of {pageSize} pages ({pool.Path} does not exist).";
    }
}
