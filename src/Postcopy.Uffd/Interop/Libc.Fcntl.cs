using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Postcopy.Uffd.Interop;

/// <summary>open(2), fcntl(2), ioctl(2): <c>fcntl.h</c> and <c>sys/ioctl.h</c>.</summary>
internal static partial class Libc
{
    internal const int O_RDONLY = 0;
    internal const int O_RDWR = 2;
    internal const int O_NONBLOCK = 0x800;
    internal const int O_CLOEXEC = 0x80000;

    internal const int F_DUPFD_CLOEXEC = 1030;
    internal const int F_GETFD = 1;
    internal const int F_SETFD = 2;
    internal const int F_GETFL = 3;
    internal const int F_SETFL = 4;
    internal const int FD_CLOEXEC = 1;

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    internal static partial SafeFileHandle open(string path, int flags);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int fcntl(SafeHandle fd, int cmd, int arg);

    // ioctl and fcntl are variadic in C. Declaring the fixed arity is right on Linux x64 and arm64, where variadic
    // arguments travel like named ones; it would be wrong on Apple's arm64 ABI.
    [LibraryImport("libc", SetLastError = true)]
    internal static unsafe partial int ioctl(SafeHandle fd, nuint request, void* argument);

    [LibraryImport("libc", EntryPoint = "ioctl", SetLastError = true)]
    internal static partial int ioctl_int(SafeHandle fd, nuint request, nint argument);

    // Its errno is LastError, to be read before anything else is called. The caller holds the descriptor open.
    [LibraryImport("libc", EntryPoint = "ioctl")]
    internal static unsafe partial int ioctl_descriptor(int fd, nuint request, void* argument);

    /// <summary>Errno of the import called last, for those without SetLastError; only after it has failed.</summary>
#if NET
    internal static int LastError => Marshal.GetLastSystemError();
#else
    internal static int LastError => Marshal.GetLastWin32Error();
#endif
}
