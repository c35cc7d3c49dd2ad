using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Postcopy.Uffd.Qemu.Interop;

/// <summary>eventfd(2), with read(2) and write(2) of its counter.</summary>
internal static unsafe partial class Libc
{
    internal const int EFD_CLOEXEC = 0x80000;
    internal const int EFD_NONBLOCK = 0x800;

    [LibraryImport("libc", SetLastError = true)]
    internal static partial SafeFileHandle eventfd(uint initval, int flags);

    // Safe when buf has count writable bytes.
    [LibraryImport("libc", SetLastError = true)]
    internal static partial nint read(SafeHandle fd, void* buf, nuint count);

    // Safe when buf has count readable bytes.
    [LibraryImport("libc", SetLastError = true)]
    internal static partial nint write(SafeHandle fd, void* buf, nuint count);
}
