using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;
using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd;

/// <summary>Tries the ways of opening a userfaultfd in order and keeps what each one answered (hazard H23).</summary>
internal static class UffdOpener
{
    private const int Flags = Libc.O_CLOEXEC | Libc.O_NONBLOCK;

    internal static UffdHandle Open(UffdOpenOptions options, Func<nint, string, bool, UffdHandle> wrap)
    {
        List<UffdOpenAttempt> attempts = [];
        nint fd = OpenDevice(options.DevicePath, attempts);
        if (fd >= 0)
        {
            return wrap(fd, options.DevicePath, false);
        }

        fd = Libc.syscall_int(Libc.SYS_userfaultfd, Flags);
        if (fd >= 0)
        {
            return wrap(fd, "userfaultfd(2)", false);
        }

        int errno = Marshal.GetLastPInvokeError();
        attempts.Add(new UffdOpenAttempt("userfaultfd(2)", errno, SyscallRemedy(errno)));
        if (!options.AllowUserModeOnly)
        {
            throw new UffdOpenException(attempts);
        }

        fd = Libc.syscall_int(Libc.SYS_userfaultfd, Flags | Userfaultfd.UFFD_USER_MODE_ONLY);
        if (fd >= 0)
        {
            return wrap(fd, "userfaultfd(2), user mode only", true);
        }

        errno = Marshal.GetLastPInvokeError();
        attempts.Add(new UffdOpenAttempt("userfaultfd(2) with UFFD_USER_MODE_ONLY", errno, SyscallRemedy(errno)));
        throw new UffdOpenException(attempts);
    }

    private static nint OpenDevice(string path, List<UffdOpenAttempt> attempts)
    {
        using SafeFileHandle device = Libc.open(path, Libc.O_RDWR | Libc.O_CLOEXEC);
        if (device.IsInvalid)
        {
            int errno = Marshal.GetLastPInvokeError();
            attempts.Add(new UffdOpenAttempt(path, errno, DeviceRemedy(path, errno)));
            return -1;
        }

        int fd = Libc.ioctl_int(device, Userfaultfd.USERFAULTFD_IOC_NEW, Flags);
        if (fd < 0)
        {
            int errno = Marshal.GetLastPInvokeError();
            string remedy = errno is Errno.EMFILE or Errno.ENFILE
                ? "Raise RLIMIT_NOFILE (ulimit -n), or fs.file-max for ENFILE."
                : "Is it the userfaultfd device (misc, see /proc/misc)?";
            attempts.Add(new UffdOpenAttempt($"{path}, USERFAULTFD_IOC_NEW", errno, remedy));
        }

        return fd;
    }

    private static string DeviceRemedy(string path, int errno) => errno switch
    {
        Errno.EACCES or Errno.EPERM =>
            $"Give user {Libc.geteuid()} the device: 'setfacl -m u:{Libc.geteuid()}:rw {path}' as root; in a container add the device to its profile.",
        Errno.ENOENT or Errno.ENXIO or Errno.ENODEV =>
            "The node needs Linux 6.1 with CONFIG_USERFAULTFD; in a container pass the device in ('--device').",
        Errno.EMFILE or Errno.ENFILE => "Raise RLIMIT_NOFILE (ulimit -n), or fs.file-max for ENFILE.",
        _ => "Check the device node.",
    };

    private static string SyscallRemedy(int errno) => errno switch
    {
        Errno.EPERM =>
            "Needs CAP_SYS_PTRACE, or 'sysctl vm.unprivileged_userfaultfd=1' as root; a seccomp profile may refuse it too.",
        Errno.ENOSYS => "The kernel has no CONFIG_USERFAULTFD, or a seccomp profile hides the call.",
        Errno.EINVAL => "UFFD_USER_MODE_ONLY needs Linux 5.11.",
        Errno.EMFILE or Errno.ENFILE => "Raise RLIMIT_NOFILE (ulimit -n), or fs.file-max for ENFILE.",
        _ => "See userfaultfd(2).",
    };
}
