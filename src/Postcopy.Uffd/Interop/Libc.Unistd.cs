using System.Runtime.InteropServices;

namespace Postcopy.Uffd.Interop;

/// <summary>read(2), close(2), syscall(2): <c>unistd.h</c>.</summary>
internal static partial class Libc
{
    [LibraryImport("libc", SetLastError = true)]
    internal static unsafe partial nint read(SafeHandle fd, void* buffer, nuint count);

    [LibraryImport("libc", SetLastError = true)]
    internal static unsafe partial nint write(SafeHandle fd, void* buffer, nuint count);

    [LibraryImport("libc", SetLastError = true)]
    internal static unsafe partial nint pread(SafeHandle fd, void* buffer, nuint count, long offset);

    internal const int SEEK_DATA = 3;

    [LibraryImport("libc", SetLastError = true)]
    internal static partial long lseek(SafeHandle fd, long offset, int whence);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int close(nint fd);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int ftruncate(SafeHandle fd, long length);

    [LibraryImport("libc")]
    internal static partial uint geteuid();

    [LibraryImport("libc")]
    internal static partial int gettid();

    [LibraryImport("libc", EntryPoint = "syscall", SetLastError = true)]
    internal static partial nint syscall_int(nint number, nint argument);

    /// <summary>Number of userfaultfd(2): <c>asm/unistd_64.h</c> on x64, <c>asm-generic/unistd.h</c> on arm64.</summary>
    internal static nint SYS_userfaultfd => UserfaultfdNumber(RuntimeInformation.ProcessArchitecture);

    internal static nint UserfaultfdNumber(Architecture architecture) => architecture switch
    {
        Architecture.X64 => 323,
        Architecture.Arm64 => 282,
        Architecture other => throw new PlatformNotSupportedException(
            $"userfaultfd is wired up for Linux on x64 and arm64; this process runs on {other}."),
    };
}
