using System.Diagnostics;
using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;
using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd;

/// <summary>
/// A userfaultfd: opened or received, negotiated, and then used to register ranges, read messages and place pages.
/// </summary>
/// <remarks>
/// Always close-on-exec and non-blocking: poll(2) reports an error for ever on a blocking one (hazard H24). Every
/// operation may be called from any thread; <see cref="Read"/> belongs to one reader. Cold calls throw, hot calls
/// (read, wake and everything that places) return an outcome and allocate nothing.
/// Closing the last descriptor of a registered range lets its waiters go on with <em>zero pages</em> (hazard H11):
/// close it when nothing is missing any more, and not before.
/// Linux 4.3 or newer, x64 and arm64.
/// </remarks>
[DebuggerDisplay("{ToString(),nq}")]
public sealed partial class UffdHandle : SafeHandle, IUffdKernel
{
    private readonly UffdOpenOptions _options;
    private UffdFeatures _granted;
    private bool _negotiated;

    private UffdHandle(nint descriptor, UffdOpenOptions options, string openedBy, bool userModeOnly, bool foreign)
        : base((nint)(-1), ownsHandle: true)
    {
        SetHandle(descriptor);
        _options = options;
        OpenedBy = openedBy;
        UserModeOnly = userModeOnly;
        IsForeign = foreign;
    }

    /// <inheritdoc/>
    public override bool IsInvalid => (nint)handle == -1;

    /// <summary>The way in which the descriptor was had: a device node, the system call, or received.</summary>
    public string OpenedBy { get; }

    /// <summary>
    /// True when only faults of user mode are handled, which is wrong for KVM guests (hazard H22). Not known, and
    /// false, for a received descriptor.
    /// </summary>
    public bool UserModeOnly { get; }

    /// <summary>
    /// True when the descriptor belongs to the address space of another process: MOVE does not work there, and the
    /// addresses are that process's.
    /// </summary>
    public bool IsForeign { get; }

    /// <summary>The features granted by <see cref="Negotiate"/>, or those the sender named.</summary>
    public UffdFeatures Granted => _granted;

    /// <summary>
    /// Opens a new userfaultfd: the device node first, then userfaultfd(2), then user-mode-only if that is allowed.
    /// </summary>
    /// <param name="options">How to open; null for the defaults.</param>
    /// <exception cref="UffdOpenException">Every way was refused; the message has each way, its errno and the remedy.</exception>
    /// <exception cref="PlatformNotSupportedException">The process does not run on Linux x64 or arm64.</exception>
    public static UffdHandle Open(UffdOpenOptions? options = null)
    {
        Platform.Require();
        UffdOpenOptions chosen = options ?? new UffdOpenOptions();
        return UffdOpener.Open(chosen, (fd, way, userOnly) => new UffdHandle(fd, chosen, way, userOnly, foreign: false));
    }

    /// <summary>
    /// Wraps a descriptor that came from another process over a Unix socket, negotiated there. It is made
    /// non-blocking and close-on-exec, and owned from here on.
    /// </summary>
    /// <param name="descriptor">The received descriptor; its ownership moves here.</param>
    /// <param name="granted">The features that the sender negotiated.</param>
    /// <exception cref="ArgumentNullException"><paramref name="descriptor"/> is null.</exception>
    /// <exception cref="UffdException">The descriptor is not open, or is no userfaultfd; it stays the caller's then.</exception>
    public static UffdHandle FromReceived(SafeFileHandle descriptor, UffdFeatures granted)
    {
        ArgumentNullException.ThrowIfNull(descriptor);
        if (descriptor.IsInvalid || descriptor.IsClosed)
        {
            throw new UffdException("fcntl", Errno.EBADF, "The received descriptor is not open (EBADF); pass the one that the peer sent with SCM_RIGHTS.");
        }

        RequireUserfaultfd(descriptor);
        SetFlags(descriptor);
        nint fd = descriptor.DangerousGetHandle();
        descriptor.SetHandleAsInvalid();
        return new UffdHandle(fd, new UffdOpenOptions(), "received", userModeOnly: false, foreign: true) { _granted = granted, _negotiated = true };
    }

    /// <summary>
    /// Another handle on the same userfaultfd. The owner of the memory keeps one for as long as any page is missing,
    /// so that a handler's death freezes the guest instead of feeding it zeros (hazard H11).
    /// </summary>
    /// <exception cref="UffdException">No descriptor is left (EMFILE): raise RLIMIT_NOFILE.</exception>
    public UffdHandle Duplicate()
    {
        int fd = Libc.fcntl(this, Libc.F_DUPFD_CLOEXEC, 0);
        if (fd < 0)
        {
            int errno = Marshal.GetLastPInvokeError();
            throw UffdException.For("fcntl(F_DUPFD_CLOEXEC)", errno, "raise RLIMIT_NOFILE when it is EMFILE (24).");
        }

        return new UffdHandle(fd, _options, OpenedBy, UserModeOnly, IsForeign) { _granted = _granted, _negotiated = _negotiated };
    }

    /// <summary>How it was opened and what was granted.</summary>
    public override string ToString() =>
        IsClosed ? "userfaultfd, closed" : $"userfaultfd {handle} ({OpenedBy}), {(_negotiated ? _granted.ToString() : "not negotiated")}";

    /// <summary>The descriptor's number for poll(2) in this assembly; callers hold a reference while they use it.</summary>
    internal int Descriptor => (int)handle;

    /// <inheritdoc/>
    protected override bool ReleaseHandle()
    {
        // The result of close is not judged: on Linux the descriptor is gone whatever it says.
        _ = Libc.close(handle);
        return true;
    }

    /// <summary>Takes a descriptor of this process that was opened by other means and is not negotiated yet.</summary>
    internal static UffdHandle Adopt(nint descriptor, bool userModeOnly) =>
        new(descriptor, new UffdOpenOptions { AllowUserModeOnly = userModeOnly }, "adopted", userModeOnly, foreign: false);

    private static void RequireUserfaultfd(SafeFileHandle descriptor)
    {
        // A wrong descriptor would answer every operation with ENOTTY, far away from the mistake. Without /proc there
        // is no way to ask, and the descriptor is believed.
        string link = $"/proc/self/fd/{descriptor.DangerousGetHandle()}";
        string? target = File.Exists("/proc/self/maps") ? new FileInfo(link).LinkTarget : null;
        if (target is not null && !target.Contains("[userfaultfd]", StringComparison.Ordinal))
        {
            throw new UffdException("fcntl", Errno.ENOTTY,
                $"The received descriptor is no userfaultfd but '{target}'; pass the one that the peer sent with SCM_RIGHTS, in the order it was sent.");
        }
    }

    private static void SetFlags(SafeHandle descriptor)
    {
        int status = Libc.fcntl(descriptor, Libc.F_GETFL, 0);
        if (status < 0 ||
            Libc.fcntl(descriptor, Libc.F_SETFL, status | Libc.O_NONBLOCK) < 0 ||
            Libc.fcntl(descriptor, Libc.F_SETFD, Libc.FD_CLOEXEC) < 0)
        {
            int errno = Marshal.GetLastPInvokeError();
            throw UffdException.For("fcntl", errno, "the received descriptor could not be made non-blocking and close-on-exec.");
        }
    }
}
