using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Postcopy.Uffd.Interop;

/// <summary>ppoll(2), eventfd(2), clock_nanosleep(2): <c>poll.h</c>, <c>sys/eventfd.h</c>, <c>time.h</c>.</summary>
internal static partial class Libc
{
    internal const short POLLIN = 0x001;
    internal const short POLLOUT = 0x004;
    internal const short POLLERR = 0x008;
    internal const short POLLHUP = 0x010;
    internal const short POLLNVAL = 0x020;

    internal const int EFD_CLOEXEC = 0x80000;
    internal const int EFD_NONBLOCK = 0x800;

    internal const int CLOCK_MONOTONIC = 1;

    [StructLayout(LayoutKind.Sequential)]
    internal struct PollFd
    {
        internal int fd;
        internal short events;
        internal short revents;
    }

    [StructLayout(LayoutKind.Sequential)]
    internal struct Timespec
    {
        internal long tv_sec;
        internal long tv_nsec;
    }

    [LibraryImport("libc", SetLastError = true)]
    internal static unsafe partial int ppoll(PollFd* fds, nuint count, Timespec* timeout, void* sigmask);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial SafeFileHandle eventfd(uint initial, int flags);

    /// <summary>
    /// Waits without a wake-up source. The kernel gives no notice when an address space stops changing
    /// (kernel-uapi: EAGAIN with no progress), so a bounded, growing pause is all there is.
    /// </summary>
    internal static unsafe void Pause(long nanoseconds)
    {
        Timespec t = new() { tv_sec = nanoseconds / 1_000_000_000, tv_nsec = nanoseconds % 1_000_000_000 };
        _ = ppoll(null, 0, &t, null);
    }
}
