using System.Runtime.InteropServices;
using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd;

/// <content>Registration: cold calls that throw.</content>
public sealed partial class UffdHandle
{
    /// <summary>Registers a range, so that faults on it raise messages here.</summary>
    /// <param name="range">Whole pages of one mapping (hazard H16: a hole inside is not noticed by the kernel).</param>
    /// <param name="modes">Which faults.</param>
    /// <returns>The range and the operations that really work on it.</returns>
    /// <exception cref="UffdException">The kernel refused; the message says why and what to do.</exception>
    public unsafe UffdRegistration Register(AddressRange range, UffdModes modes)
    {
        Userfaultfd.uffdio_register argument = new()
        {
            range = new Userfaultfd.uffdio_range { start = range.Start, len = range.Length },
            mode = (ulong)modes,
        };
        // SAFETY: the struct is a local of the size that the ioctl number encodes; the kernel checks the range.
        if (Libc.ioctl(this, Userfaultfd.UFFDIO_REGISTER, &argument) != 0)
        {
            int errno = Marshal.GetLastPInvokeError();
            throw UffdException.For($"UFFDIO_REGISTER of {range} as {modes}", errno, RegisterRemedy(errno));
        }

        UffdOperations operations = (UffdOperations)argument.ioctls;
        if ((operations & UffdOperations.Move) != 0 && (IsForeign || !ProcessMaps.IsAnonymousPrivate(range)))
        {
            operations &= ~UffdOperations.Move;
        }

        return new UffdRegistration(range, modes, operations);
    }

    /// <summary>
    /// Ends the registration of a range. Threads that wait in it are woken and go on with <em>zero pages</em> where a
    /// page is missing (hazard H11).
    /// </summary>
    /// <param name="range">Whole pages.</param>
    /// <exception cref="UffdException">The range is not mapped, or another userfaultfd's.</exception>
    public unsafe void Unregister(AddressRange range)
    {
        Userfaultfd.uffdio_range argument = new() { start = range.Start, len = range.Length };
        // SAFETY: as in Register.
        if (Libc.ioctl(this, Userfaultfd.UFFDIO_UNREGISTER, &argument) != 0)
        {
            int errno = Marshal.GetLastPInvokeError();
            throw UffdException.For($"UFFDIO_UNREGISTER of {range}", errno,
                errno == Errno.ENOMEM ? "the process whose memory it is has gone." : "the range must be mapped, page-aligned, and registered here.");
        }
    }

    private static string RegisterRemedy(int errno) => errno switch
    {
        Errno.EBUSY => "the range is registered with another userfaultfd; unregister it there.",
        Errno.EPERM => "a shared file mapping must be writable.",
        Errno.ENOMEM => "the process whose memory it is has gone, or the kernel is out of memory.",
        Errno.EINVAL => "the range must be mapped, aligned to its page size, and of a kind that has these modes: " +
            "anonymous memory has missing and write-protect, memfd and hugetlbfs have minor as well, other files none.",
        _ => "see ioctl_userfaultfd(2).",
    };
}
