using System.ComponentModel;
using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Postcopy.Uffd.Qemu.Interop;

/// <summary>A wake-up that can be given from the fault thread: one system call, no allocation, no lock.</summary>
internal sealed unsafe class EventFd : IDisposable
{
    private readonly SafeFileHandle _handle;

    internal EventFd()
    {
        _handle = Libc.eventfd(0, Libc.EFD_CLOEXEC | Libc.EFD_NONBLOCK);
        if (_handle.IsInvalid)
        {
            throw new Win32Exception(Marshal.GetLastPInvokeError());
        }
    }

    /// <summary>Wakes the waiter, now or at its next wait. A full counter means that it is already woken.</summary>
    internal void Set()
    {
        ulong one = 1;
        try
        {
            // SAFETY: eight bytes on this stack. EAGAIN (counter full) needs nothing.
            _ = Libc.write(_handle, &one, sizeof(ulong));
        }
        catch (ObjectDisposedException)
        {
            // Nobody waits any more.
        }
    }

    /// <summary>Waits for <see cref="Set"/> and takes all wake-ups given so far.</summary>
    internal void Wait()
    {
        _ = Libc.WaitFor(_handle, Libc.POLLIN, -1);
        ulong count;
        // SAFETY: eight bytes on this stack.
        _ = Libc.read(_handle, &count, sizeof(ulong));
    }

    /// <inheritdoc/>
    public void Dispose() => _handle.Dispose();
}
