using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;
using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd;

/// <summary>An eventfd(2): any thread wakes another out of poll, without a lock and without allocating.</summary>
internal sealed unsafe class WakeEvent : IDisposable
{
    private readonly SafeFileHandle _handle;

    internal WakeEvent()
    {
        _handle = Libc.eventfd(0, Libc.EFD_CLOEXEC | Libc.EFD_NONBLOCK);
        if (_handle.IsInvalid)
        {
            int errno = Marshal.GetLastPInvokeError();
            throw UffdException.For("eventfd", errno, "raise RLIMIT_NOFILE when it is EMFILE (24).");
        }
    }

    internal int Descriptor => (int)_handle.DangerousGetHandle();

    internal void Signal()
    {
        ulong one = 1;
        try
        {
            // SAFETY: eight bytes of a local. A full counter (EAGAIN) is a signal that is not read yet: as good.
            _ = Libc.write(_handle, &one, sizeof(ulong));
        }
        catch (ObjectDisposedException)
        {
            // A placer that was just committing when its destination was closed: nobody is left to be woken.
        }
    }

    /// <summary>Waits, in native code, until it is signalled; returns also when the time is over or a signal came.</summary>
    internal void Wait(TimeSpan limit)
    {
        Libc.PollFd poll = new() { fd = Descriptor, events = Libc.POLLIN };
        Libc.Timespec time = new() { tv_sec = (long)limit.TotalSeconds, tv_nsec = limit.Ticks % TimeSpan.TicksPerSecond * 100 };
        // SAFETY: two locals. EINTR is a wake-up without a reason; the caller looks again.
        _ = Libc.ppoll(&poll, 1, &time, null);
    }

    internal void Drain()
    {
        ulong count;
        // SAFETY: eight bytes of a local; empty is EAGAIN.
        _ = Libc.read(_handle, &count, sizeof(ulong));
    }

    public void Dispose() => _handle.Dispose();
}
