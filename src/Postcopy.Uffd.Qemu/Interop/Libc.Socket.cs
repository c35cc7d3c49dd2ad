using System.Runtime.InteropServices;

namespace Postcopy.Uffd.Qemu.Interop;

/// <summary>recv(2), send(2) and poll(2), with the kernel's names and constants.</summary>
internal static unsafe partial class Libc
{
    internal const int MSG_DONTWAIT = 0x40;
    internal const int MSG_NOSIGNAL = 0x4000;

    internal const short POLLIN = 0x0001;
    internal const short POLLOUT = 0x0004;

    internal const int EINTR = 4;
    internal const int EAGAIN = 11;
    internal const int EPIPE = 32;
    internal const int ECONNRESET = 104;
    internal const int ETIMEDOUT = 110;

    // Safe when buf has len writable bytes; a thread may wait here, in preemptive mode, without holding up a GC.
    [LibraryImport("libc", SetLastError = true)]
    internal static partial nint recv(SafeHandle sockfd, byte* buf, nuint len, int flags);

    // Safe when the vectors of msg describe writable memory; a thread may wait here as in recv.
    [LibraryImport("libc", SetLastError = true)]
    internal static partial nint recvmsg(SafeHandle sockfd, MessageHeader* msg, int flags);

    // Safe when buf has len readable bytes outside of guest memory that may be missing.
    [LibraryImport("libc", SetLastError = true)]
    internal static partial nint send(SafeHandle sockfd, byte* buf, nuint len, int flags);

    // Safe when fds points to nfds entries.
    [LibraryImport("libc", SetLastError = true)]
    internal static partial int poll(PollFd* fds, nuint nfds, int timeout);

    internal const int IPPROTO_TCP = 6;
    internal const int TCP_QUICKACK = 12;

    // Safe when optval has optlen readable bytes.
    [LibraryImport("libc", SetLastError = true)]
    internal static partial int setsockopt(SafeHandle sockfd, int level, int optname, void* optval, uint optlen);

    /// <summary>struct iovec of readv(2).</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct IoVector
    {
        internal nuint Base;
        internal nuint Length;
    }

    /// <summary>struct msghdr of recvmsg(2), 64-bit.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct MessageHeader
    {
        internal nuint Name;
        internal uint NameLength;
        internal IoVector* Vectors;
        internal nuint VectorCount;
        internal nuint Control;
        internal nuint ControlLength;
        internal int Flags;
    }

    internal const int SOL_SOCKET = 1;
    internal const int SO_PEERCRED = 17;

    // Safe when optval has *optlen writable bytes.
    [LibraryImport("libc", SetLastError = true)]
    internal static partial int getsockopt(SafeHandle sockfd, int level, int optname, void* optval, uint* optlen);

    [LibraryImport("libc")]
    internal static partial uint geteuid();

    /// <summary>struct pollfd of poll(2).</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct PollFd
    {
        internal int fd;
        internal short events;
        internal short revents;
    }

    /// <summary>Waits until one of the events, an error or a hang-up is there; false when the time is over.</summary>
    /// <param name="descriptor">An open descriptor.</param>
    /// <param name="events">POLLIN or POLLOUT.</param>
    /// <param name="timeoutMilliseconds">-1 waits without limit; EINTR starts the time again.</param>
    internal static bool WaitFor(SafeHandle descriptor, short events, int timeoutMilliseconds)
    {
        bool referenced = false;
        try
        {
            descriptor.DangerousAddRef(ref referenced);
            PollFd entry = new() { fd = (int)descriptor.DangerousGetHandle(), events = events };
            while (true)
            {
                // SAFETY: one entry on this stack.
                int ready = poll(&entry, 1, timeoutMilliseconds);
                if (ready >= 0)
                {
                    return ready > 0;
                }

                int errno = Marshal.GetLastPInvokeError();
                if (errno != EINTR)
                {
                    // A descriptor that cannot be polled reports its trouble at the next recv or send.
                    return true;
                }
            }
        }
        finally
        {
            if (referenced)
            {
                descriptor.DangerousRelease();
            }
        }
    }
}
