using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Postcopy.Vmm.Tests;

/// <summary>What a process without rights would get, in a process that has them.</summary>
internal static unsafe partial class Syscalls
{
    private const long SetFsUid = 122;
    private const long Userfaultfd = 323;
    private const long Nobody = 65534;
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

    /// <summary>A userfaultfd that sees faults of user mode only.</summary>
    internal static SafeFileHandle OpenUserModeUffd()
    {
        nint fd = Call(Userfaultfd, UserModeOnly | NonBlockCloseOnExec);
        Assert.True(fd >= 0, $"userfaultfd gave errno {Marshal.GetLastPInvokeError()}");
        Api api = new() { Version = ApiVersion };
        Assert.Equal(0, Control((int)fd, ApiIoctl, &api));
        return new SafeFileHandle(fd, ownsHandle: true);
    }

    /// <summary>Runs something that opens files, as a user who owns none. The system call is one of the thread alone.</summary>
    internal static void AsNobody(Action action)
    {
        Thread thread = new(() =>
        {
            _ = Call(SetFsUid, Nobody);
            action();
        });
        thread.Start();
        thread.Join();
    }

    [LibraryImport("libc", EntryPoint = "syscall", SetLastError = true)]
    private static partial nint Call(long number, long argument);

    [LibraryImport("libc", EntryPoint = "ioctl", SetLastError = true)]
    private static partial int Control(int fd, ulong request, Api* api);
}
