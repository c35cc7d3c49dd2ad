namespace Postcopy.Uffd;

/// <summary>
/// Features that a kernel's userfaultfd offers, as negotiated by <c>UFFDIO_API</c>. Bits this version does not know
/// are kept as they are: kernels grow, and a value is never masked.
/// </summary>
/// <remarks>Numbers and first kernels from <c>userfaultfd.2</c> and <c>UFFDIO_API.2const</c> of the Linux man-pages.</remarks>
[Flags]
public enum UffdFeatures : ulong
{
    /// <summary>Nothing beyond missing-page faults on anonymous memory (Linux 4.3).</summary>
    None = 0,

    /// <summary>Write-protect faults are flagged in messages (Linux 5.7).</summary>
    PagefaultFlagWp = 1UL << 0,

    /// <summary>fork(2) raises an event that carries the child's descriptor (Linux 4.11; needs CAP_SYS_PTRACE).</summary>
    EventFork = 1UL << 1,

    /// <summary>mremap(2) raises an event (Linux 4.11).</summary>
    EventRemap = 1UL << 2,

    /// <summary>MADV_DONTNEED, MADV_REMOVE and MADV_FREE raise an event and block until it is read (Linux 4.11).</summary>
    EventRemove = 1UL << 3,

    /// <summary>Missing faults on hugetlbfs memory (Linux 4.11; informational).</summary>
    MissingHugetlbfs = 1UL << 4,

    /// <summary>Missing faults on shared memory (Linux 4.11; informational).</summary>
    MissingShmem = 1UL << 5,

    /// <summary>munmap(2) raises an event and blocks until it is read (Linux 4.11).</summary>
    EventUnmap = 1UL << 6,

    /// <summary>Faults raise SIGBUS in the faulting thread instead of a message (Linux 4.14).</summary>
    Sigbus = 1UL << 7,

    /// <summary>Fault messages carry the faulting thread's id (Linux 4.14): what blocktime is computed from.</summary>
    ThreadId = 1UL << 8,

    /// <summary>Minor faults on hugetlbfs memory (Linux 5.13).</summary>
    MinorHugetlbfs = 1UL << 9,

    /// <summary>Minor faults on shared memory (Linux 5.14).</summary>
    MinorShmem = 1UL << 10,

    /// <summary>Messages carry the exact address, not the page's (Linux 5.18).</summary>
    ExactAddress = 1UL << 11,

    /// <summary>Write-protect mode on shared and hugetlbfs memory (Linux 5.19).</summary>
    WpHugetlbfsShmem = 1UL << 12,

    /// <summary>Write protection also holds for pages that are not populated (Linux 6.4).</summary>
    WpUnpopulated = 1UL << 13,

    /// <summary><c>UFFDIO_POISON</c> (Linux 6.6).</summary>
    Poison = 1UL << 14,

    /// <summary>Write protection resolved by the kernel, for dirty tracking (Linux 6.7).</summary>
    WpAsync = 1UL << 15,

    /// <summary><c>UFFDIO_MOVE</c> (Linux 6.8).</summary>
    Move = 1UL << 16,
}
