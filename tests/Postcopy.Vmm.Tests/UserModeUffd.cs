using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Postcopy.Vmm.Tests;

/// <summary>A userfaultfd that sees faults of user mode only, such as a process without rights would get.</summary>
internal static unsafe partial class UserModeUffd
{
    private const long SysUserfaultfd = 323;
    private const long UserModeOnly = 1;
    private const long NonBlockCloseOnExec = 0x80800;
    private const ulong ApiIoctl = 0xc018aa3f;
    private const ulong ApiVersion = 0xaa;

    [StructLayout(LayoutKind.Sequential)]
    private struct Api
    {
        internal ulong Version;
        internal ulong Features;
        internal ulong Ioctls;
    }

    internal static SafeFileHandle Open()
    {
        nint fd = Call(SysUserfaultfd, UserModeOnly | NonBlockCloseOnExec);
        Assert.True(fd >= 0, $"userfaultfd gave errno {Marshal.GetLastPInvokeError()}");
        Api api = new() { Version = ApiVersion };
        Assert.Equal(0, Control((int)fd, ApiIoctl, &api));
        return new SafeFileHandle(fd, ownsHandle: true);
    }

    [LibraryImport("libc", EntryPoint = "syscall", SetLastError = true)]
    private static partial nint Call(long number, long argument);

    [LibraryImport("libc", EntryPoint = "ioctl", SetLastError = true)]
    private static partial int Control(int fd, ulong request, Api* api);
}
