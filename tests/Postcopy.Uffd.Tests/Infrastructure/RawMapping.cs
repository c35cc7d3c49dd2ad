using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;
using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd.Tests.Infrastructure;

/// <summary>
/// Memory mapped as a test needs it, with none of <see cref="GuestMemory"/>'s care: any flags, forkable, splittable.
/// Unmapped on Dispose.
/// </summary>
internal sealed class RawMapping : IDisposable
{
    private bool _unmapped;

    private RawMapping(nuint address, nuint length, nuint pageSize, SafeFileHandle? file)
    {
        Address = address;
        Length = length;
        PageSize = pageSize;
        File = file;
    }

    internal nuint Address { get; private set; }

    internal nuint Length { get; }

    internal nuint PageSize { get; }

    internal SafeFileHandle? File { get; }

    internal AddressRange Range => new(Address, Length);

    internal nuint Page(int index) => Address + ((nuint)index * PageSize);

    internal static RawMapping Anonymous(int pages, int extraFlags = 0) =>
        Map(pages, HostPage, Libc.MAP_PRIVATE | Libc.MAP_ANONYMOUS | extraFlags, null);

    /// <summary>As <see cref="Anonymous"/>, at a multiple of 2 MiB.</summary>
    internal static RawMapping AlignedAnonymous(int pages)
    {
        nuint huge = 2 << 20;
        nuint length = (nuint)pages * HostPage;
        nuint area = Libc.mmap_anonymous(0, length + huge, Libc.PROT_READ | Libc.PROT_WRITE, Libc.MAP_PRIVATE | Libc.MAP_ANONYMOUS, -1, 0);
        Assert.True(area != Libc.MAP_FAILED, "mmap failed");
        nuint address = (area + huge - 1) & ~(huge - 1);
        if (address > area)
        {
            _ = Libc.munmap(area, address - area);
        }

        _ = Libc.munmap(address + length, area + huge - address);
        _ = Libc.madvise(address, length, Libc.MADV_NOHUGEPAGE);
        return new RawMapping(address, length, HostPage, null);
    }

    internal static RawMapping Memfd(int pages, int filePages = -1, bool shared = true, bool readOnlyFile = false)
    {
        SafeFileHandle file = Check(Libc.memfd_create("test", Libc.MFD_CLOEXEC));
        Assert.Equal(0, Libc.ftruncate(file, (filePages < 0 ? pages : filePages) * (long)HostPage));
        if (readOnlyFile)
        {
            using SafeFileHandle writable = file;
            file = Check(Libc.open($"/proc/self/fd/{writable.DangerousGetHandle()}", Libc.O_RDONLY | Libc.O_CLOEXEC));
        }

        return Map(pages, HostPage, shared ? Libc.MAP_SHARED : Libc.MAP_PRIVATE, file, !readOnlyFile);
    }

    /// <summary>The first page of a regular file, private.</summary>
    internal static RawMapping OfFile(string path) =>
        Map(1, HostPage, Libc.MAP_PRIVATE, Check(Libc.open(path, Libc.O_RDONLY | Libc.O_CLOEXEC)));

    internal static RawMapping Hugetlb(int pages, bool shared, bool reserve = true)
    {
        const int huge2M = 21 << Libc.MAP_HUGE_SHIFT;
        int flags = (shared ? Libc.MAP_SHARED : Libc.MAP_PRIVATE) | (reserve ? 0 : Libc.MAP_NORESERVE);
        if (!shared)
        {
            return Map(pages, 2 << 20, flags | Libc.MAP_ANONYMOUS | Libc.MAP_HUGETLB | huge2M, null);
        }

        SafeFileHandle file = Check(Libc.memfd_create("test-huge", Libc.MFD_CLOEXEC | Libc.MFD_HUGETLB | huge2M));
        Assert.Equal(0, Libc.ftruncate(file, pages * (2L << 20)));
        return Map(pages, 2 << 20, flags, file);
    }

    /// <summary>A second view of the same file: writes through it fill the page cache without touching the first.</summary>
    internal RawMapping Alias() => Map((int)(Length / PageSize), PageSize, Libc.MAP_SHARED, File!);

    /// <summary>Fills one page with a value that follows from <paramref name="seed"/>; the page must not be registered.</summary>
    internal RawMapping Fill(int seed)
    {
        for (int i = 0; i < (int)(Length / PageSize); i++)
        {
            _ = Libc.memset(Page(i), (byte)(seed + i), PageSize);
        }

        return this;
    }

    /// <summary>
    /// Unmaps it now, so that Dispose does not: by then the addresses may belong to somebody else, and an munmap too
    /// many takes a page out of malloc's arena or another test's memory. Never unmap a part in a shared process.
    /// </summary>
    internal int Unmap()
    {
        _unmapped = true;
        return Libc.munmap(Address, Length);
    }

    /// <summary>Follows an mremap(2) of the whole mapping.</summary>
    internal void Moved(nuint to) => Address = to;

    internal static nuint HostPage => (nuint)Uffd.PageSize.Host.Bytes;

    private static RawMapping Map(int pages, nuint pageSize, int flags, SafeFileHandle? file, bool writable = true)
    {
        nuint length = (nuint)pages * pageSize;
        int protection = Libc.PROT_READ | (writable ? Libc.PROT_WRITE : 0);
        nuint hint = Hint(length, pageSize);
        nuint address = file is null
            ? Libc.mmap_anonymous(hint, length, protection, flags, -1, 0)
            : Libc.mmap(hint, length, protection, flags, file, 0);
        Assert.True(address != Libc.MAP_FAILED, $"mmap failed: {Errno.Describe(Marshal.GetLastPInvokeError())}");
        // Transparent huge pages would make a neighbour appear with a page (hazard H18).
        _ = Libc.madvise(address, length, Libc.MADV_NOHUGEPAGE);
        return new RawMapping(address, length, pageSize, file);
    }

    /// <summary>Where pages larger than this machine's lie as a host with such pages would put them.</summary>
    private static nuint Hint(nuint length, nuint pageSize)
    {
        if (pageSize == HostPage && pageSize != (nuint)Environment.SystemPageSize)
        {
            nuint free = Libc.mmap_anonymous(0, length + pageSize, Libc.PROT_NONE, Libc.MAP_PRIVATE | Libc.MAP_ANONYMOUS, -1, 0);
            _ = Libc.munmap(free, length + pageSize);
            return Uffd.PageSize.Host.AlignDown(free + pageSize - 1);
        }

        return 0;
    }

    private static SafeFileHandle Check(SafeFileHandle file)
    {
        Assert.False(file.IsInvalid, $"No file: {Errno.Describe(Marshal.GetLastPInvokeError())}");
        return file;
    }

    public void Dispose()
    {
        if (!_unmapped)
        {
            _ = Unmap();
        }

        File?.Dispose();
    }
}
