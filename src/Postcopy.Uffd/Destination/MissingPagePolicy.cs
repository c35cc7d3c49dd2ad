namespace Postcopy.Uffd;

/// <summary>
/// What a destination that is closed does about pages that never came. There is no default: closing a userfaultfd
/// with pages missing would feed the guest silent zeros (hazard H11).
/// </summary>
public enum MissingPagePolicy
{
    /// <summary>
    /// Keep the descriptors open for the rest of the process's life: whoever touches a missing page waits for ever,
    /// and nothing wrong is ever read. For a host that ends the virtual machine itself.
    /// </summary>
    KeepWaiting = 1,

    /// <summary>
    /// Poison the missing pages, then close: whoever touches one gets SIGBUS, a system call EFAULT (Linux 6.6; on older
    /// kernels closing is refused). Waiters are woken into it. A KVM on a software MMU (kvm_pvm, measured) hands a
    /// poisoned page to the VMM as an MMIO exit instead: end the vCPU, or the guest goes on with made-up data.
    /// </summary>
    Poison,

    /// <summary>Refuse to close while a page is missing.</summary>
    Fail,
}
