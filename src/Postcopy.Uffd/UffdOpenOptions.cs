namespace Postcopy.Uffd;

/// <summary>How a userfaultfd is opened. The defaults are right for a VMM.</summary>
public sealed record UffdOpenOptions
{
    /// <summary>
    /// Accept a descriptor that only handles faults of user mode (<c>UFFD_USER_MODE_ONLY</c>, Linux 5.11) when no
    /// other can be had; the default is false.
    /// </summary>
    /// <remarks>
    /// Never for KVM guests or for memory that system calls touch: an access from the kernel then fails with EFAULT
    /// (or becomes an MMIO exit) instead of waiting for the page (hazard H22).
    /// </remarks>
    public bool AllowUserModeOnly { get; init; }

    /// <summary>The device node that is tried first (Linux 6.1).</summary>
    public string DevicePath { get; init; } = "/dev/userfaultfd";
}
