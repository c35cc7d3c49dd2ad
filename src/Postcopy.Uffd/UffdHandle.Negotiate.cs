using System.Runtime.InteropServices;
using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd;

/// <content>The two halves of the handshake: what the kernel has, and what we ask for.</content>
public sealed partial class UffdHandle
{
    /// <summary>
    /// What the kernel offers, asked on a throw-away descriptor: a descriptor takes part in one handshake only.
    /// </summary>
    /// <param name="options">How to open; null for the defaults.</param>
    /// <exception cref="UffdOpenException">No descriptor could be had.</exception>
    /// <exception cref="UffdException">The kernel refused the handshake.</exception>
    public static UffdSupport Probe(UffdOpenOptions? options = null)
    {
        using UffdHandle scratch = Open(options);
        int errno = scratch.Handshake(0, out Userfaultfd.uffdio_api api);
        return errno == 0
            ? new UffdSupport((UffdFeatures)api.features, api.ioctls, scratch.OpenedBy, scratch.UserModeOnly)
            : throw UffdException.For("UFFDIO_API", errno, "the kernel does not speak userfaultfd API 0xAA.");
    }

    /// <summary>
    /// Switches the descriptor on with all of <paramref name="required"/> and as much of <paramref name="optional"/>
    /// as the kernel has and allows. Must be called once, before anything else.
    /// </summary>
    /// <param name="required">Features without which the caller cannot go on.</param>
    /// <param name="optional">Features that are used if they can be had.</param>
    /// <returns>What was granted, and why something was not.</returns>
    /// <exception cref="UffdException">A required feature is missing or not allowed; or the handle was negotiated before.</exception>
    /// <exception cref="UffdOpenException">
    /// The kernel lacks something that was asked for, and the descriptor to find out what could not be opened.
    /// </exception>
    public UffdGrant Negotiate(UffdFeatures required = UffdFeatures.None, UffdFeatures optional = UffdFeatures.None)
    {
        if (_negotiated)
        {
            throw new UffdException("UFFDIO_API", 0, "This descriptor is negotiated already, and the kernel takes one handshake only; open another.");
        }

        // A handshake that succeeds names all that the kernel offers, and one that asks too much is refused without
        // being used up; so the throw-away descriptor is needed only to learn what was too much. It may be out of
        // reach: a process often gives up its rights after opening.
        UffdFeatures asked = required | optional;
        UffdFeatures offered = UffdFeatures.None;
        List<UffdRefusal> refused = [];
        int errno = Handshake(asked, out Userfaultfd.uffdio_api api);
        if (errno == Errno.EINVAL)
        {
            offered = Probe(_options).Features;
            UffdFeatures missing = required & ~offered;
            if (missing != 0)
            {
                throw new UffdException("UFFDIO_API", 0,
                    $"The kernel does not offer {missing}: {string.Join("; ", Each(missing).Select(UnofferedReason))}. It offers {offered}.");
            }

            refused.AddRange(Each(optional & ~offered).Select(f => new UffdRefusal(f, UnofferedReason(f))));
            asked &= offered;
            errno = Handshake(asked, out api);
        }

        if (errno == Errno.EPERM && (asked & UffdFeatures.EventFork) != 0 && (required & UffdFeatures.EventFork) == 0)
        {
            // The kernel checks the privilege before it takes the handshake, so the descriptor is as new.
            refused.Add(new UffdRefusal(UffdFeatures.EventFork, "EventFork needs CAP_SYS_PTRACE"));
            asked &= ~UffdFeatures.EventFork;
            errno = Handshake(asked, out api);
        }

        if (errno != 0)
        {
            throw UffdException.For("UFFDIO_API", errno, errno == Errno.EPERM
                ? "EventFork needs CAP_SYS_PTRACE; ask for it as optional, or not at all (hazard H13)."
                : $"the kernel refused {asked} although it offers {offered}; was a duplicate of this descriptor negotiated already?");
        }

        _granted = asked;
        _negotiated = true;
        return new UffdGrant(asked, (UffdFeatures)api.features, refused);
    }

    private static IEnumerable<UffdFeatures> Each(UffdFeatures features)
    {
        for (ulong rest = (ulong)features; rest != 0; rest &= rest - 1)
        {
            yield return (UffdFeatures)(rest & (~rest + 1));
        }
    }

    private static string UnofferedReason(UffdFeatures feature) => feature switch
    {
        UffdFeatures.PagefaultFlagWp => "PagefaultFlagWp needs Linux 5.7 with CONFIG_HAVE_ARCH_USERFAULTFD_WP",
        UffdFeatures.EventFork or UffdFeatures.EventRemap or UffdFeatures.EventRemove or UffdFeatures.EventUnmap
            or UffdFeatures.MissingHugetlbfs or UffdFeatures.MissingShmem => $"{feature} needs Linux 4.11",
        UffdFeatures.Sigbus or UffdFeatures.ThreadId => $"{feature} needs Linux 4.14",
        UffdFeatures.MinorHugetlbfs => "MinorHugetlbfs needs Linux 5.13 on a 64-bit architecture",
        UffdFeatures.MinorShmem => "MinorShmem needs Linux 5.14 on a 64-bit architecture",
        UffdFeatures.ExactAddress => "ExactAddress needs Linux 5.18",
        UffdFeatures.WpHugetlbfsShmem => "WpHugetlbfsShmem needs Linux 5.19",
        UffdFeatures.WpUnpopulated => "WpUnpopulated needs Linux 6.4",
        UffdFeatures.Poison => "Poison needs Linux 6.6",
        UffdFeatures.WpAsync => "WpAsync needs Linux 6.7",
        UffdFeatures.Move => "Move needs Linux 6.8",
        _ => $"bit {ulong.TrailingZeroCount((ulong)feature)} is not known to this kernel",
    };

    private unsafe int Handshake(UffdFeatures features, out Userfaultfd.uffdio_api api)
    {
        // SAFETY: the struct is a local of the size that the ioctl number encodes.
        fixed (Userfaultfd.uffdio_api* p = &api)
        {
            *p = new Userfaultfd.uffdio_api { api = Userfaultfd.UFFD_API, features = (ulong)features };
            return Libc.ioctl(this, Userfaultfd.UFFDIO_API, p) == 0 ? 0 : Marshal.GetLastPInvokeError();
        }
    }
}
