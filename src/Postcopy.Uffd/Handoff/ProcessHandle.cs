using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;
using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd;

/// <summary>
/// A pidfd: a process, for as long as the descriptor is open, whatever becomes of its number (pidfd_open(2), Linux 5.3).
/// Readable, to poll(2), once the process has ended. Sent over a socket it crosses pid namespaces too.
/// </summary>
internal sealed class ProcessHandle : IDisposable
{
    private ProcessHandle(SafeFileHandle descriptor) => Descriptor = descriptor;

    internal SafeFileHandle Descriptor { get; }

    internal static ProcessHandle OfThisProcess() =>
        TryOpen(Libc.getpid(), out int errno) ?? throw new HandoffException($"pidfd_open of this process failed with {Errno.Describe(errno)}: it needs Linux 5.3.");

    internal static ProcessHandle? TryOpen(int pid, out int errno)
    {
        nint descriptor = Libc.syscall_2(Libc.SYS_pidfd_open, pid, 0);
        errno = descriptor < 0 ? Marshal.GetLastPInvokeError() : 0;
        return descriptor < 0 ? null : new ProcessHandle(new SafeFileHandle(descriptor, ownsHandle: true));
    }

    /// <summary>Takes a descriptor that a peer sent.</summary>
    /// <exception cref="HandoffException">It is no pidfd.</exception>
    internal static ProcessHandle FromReceived(SafeFileHandle descriptor)
    {
        // Any other descriptor would be watched too, and would say that the peer has ended, or never.
        string info = $"/proc/self/fdinfo/{descriptor.DangerousGetHandle()}";
        return !File.Exists(info) || File.ReadAllText(info).Contains("\nPid:", StringComparison.Ordinal)
            ? new ProcessHandle(descriptor)
            : throw new HandoffException("The descriptor that should stand for the peer's process is no pidfd.");
    }

    /// <summary>Ends the process; false when it has ended already or this one may not.</summary>
    internal bool Kill()
    {
        bool added = false;
        try
        {
            Descriptor.DangerousAddRef(ref added);
            return Libc.syscall_4(Libc.SYS_pidfd_send_signal, Descriptor.DangerousGetHandle(), Libc.SIGKILL, 0, 0) == 0;
        }
        finally
        {
            if (added)
            {
                Descriptor.DangerousRelease();
            }
        }
    }

    /// <summary>Waits for the end; false when the time is over.</summary>
    internal unsafe bool WaitForExit(TimeSpan limit)
    {
        Libc.PollFd poll = new() { fd = (int)Descriptor.DangerousGetHandle(), events = Libc.POLLIN };
        Libc.Timespec time = new() { tv_sec = (long)limit.TotalSeconds, tv_nsec = limit.Ticks % TimeSpan.TicksPerSecond * 100 };
        // SAFETY: two locals.
        return Libc.ppoll(&poll, 1, &time, null) > 0;
    }

    public void Dispose() => Descriptor.Dispose();
}
