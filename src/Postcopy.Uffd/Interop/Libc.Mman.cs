using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Postcopy.Uffd.Interop;

/// <summary>mmap(2), madvise(2), memfd_create(2), mlock2(2), mincore(2): <c>sys/mman.h</c>.</summary>
internal static partial class Libc
{
    internal const int PROT_NONE = 0;
    internal const int PROT_READ = 1;
    internal const int PROT_WRITE = 2;

    internal const int MAP_SHARED = 0x01;
    internal const int MAP_PRIVATE = 0x02;
    internal const int MAP_FIXED = 0x10;
    internal const int MAP_ANONYMOUS = 0x20;
    internal const int MAP_NORESERVE = 0x4000;
    internal const int MAP_HUGETLB = 0x40000;
    internal const int MAP_HUGE_SHIFT = 26;

    internal const int MADV_DONTNEED = 4;
    internal const int MADV_REMOVE = 9;
    internal const int MADV_DONTFORK = 10;
    internal const int MADV_DOFORK = 11;
    internal const int MADV_HUGEPAGE = 14;
    internal const int MADV_NOHUGEPAGE = 15;
    internal const int MADV_DONTDUMP = 16;
    internal const int MADV_DODUMP = 17;
    internal const int MADV_POPULATE_READ = 22;
    internal const int MADV_POPULATE_WRITE = 23;
    internal const int MADV_COLLAPSE = 25;

    internal const uint MFD_CLOEXEC = 1;
    internal const uint MFD_HUGETLB = 4;

    internal const int FALLOC_FL_KEEP_SIZE = 1;
    internal const int FALLOC_FL_PUNCH_HOLE = 2;

    internal static readonly nuint MAP_FAILED = unchecked((nuint)(nint)(-1));

    [LibraryImport("libc", SetLastError = true)]
    internal static partial nuint mmap(nuint address, nuint length, int prot, int flags, SafeHandle fd, long offset);

    [LibraryImport("libc", EntryPoint = "mmap", SetLastError = true)]
    internal static partial nuint mmap_anonymous(nuint address, nuint length, int prot, int flags, int fd, long offset);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int munmap(nuint address, nuint length);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int mprotect(nuint address, nuint length, int prot);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int madvise(nuint address, nuint length, int advice);

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    internal static partial SafeFileHandle memfd_create(string name, uint flags);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int fallocate(SafeHandle fd, int mode, long offset, long length);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int mlock(nuint address, nuint length);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int munlock(nuint address, nuint length);

    [LibraryImport("libc", SetLastError = true)]
    internal static unsafe partial int mincore(nuint address, nuint length, byte* vector);
}
