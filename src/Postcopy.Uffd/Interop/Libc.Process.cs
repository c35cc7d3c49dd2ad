using System.Runtime.InteropServices;

namespace Postcopy.Uffd.Interop;

/// <summary>pidfd_open(2), pidfd_send_signal(2) (Linux 5.3 and 5.1) and file seals: <c>sys/pidfd.h</c>, <c>linux/fcntl.h</c>.</summary>
internal static partial class Libc
{
    internal const int SIGKILL = 9;

    internal const int F_ADD_SEALS = 1033;
    internal const int F_GET_SEALS = 1034;
    internal const int F_SEAL_SEAL = 1;
    internal const int F_SEAL_SHRINK = 2;
    internal const int F_SEAL_GROW = 4;
    internal const uint MFD_ALLOW_SEALING = 2;

    internal const int SEEK_END = 2;

    // The same on x64 and arm64: numbers from 424 on are shared by all architectures.
    internal const int SYS_pidfd_send_signal = 424;
    internal const int SYS_pidfd_open = 434;

    [LibraryImport("libc")]
    internal static partial int getpid();

    [LibraryImport("libc", EntryPoint = "syscall", SetLastError = true)]
    internal static partial nint syscall_2(nint number, nint a, nint b);

    [LibraryImport("libc", EntryPoint = "syscall", SetLastError = true)]
    internal static partial nint syscall_4(nint number, nint a, nint b, nint c, nint d);
}
