namespace Postcopy.Uffd;

/// <summary>
/// The operations a registered range supports, in the bit positions of <c>uffdio_register.ioctls</c>. Unknown bits
/// are kept.
/// </summary>
[Flags]
public enum UffdOperations : ulong
{
    /// <summary>None.</summary>
    None = 0,

    /// <summary><c>UFFDIO_WAKE</c>.</summary>
    Wake = 1UL << 2,

    /// <summary><c>UFFDIO_COPY</c>.</summary>
    Copy = 1UL << 3,

    /// <summary><c>UFFDIO_ZEROPAGE</c>; missing for hugetlb memory.</summary>
    Zeropage = 1UL << 4,

    /// <summary><c>UFFDIO_MOVE</c>; the kernel's mask also names it for shared memory, where it does not work.</summary>
    Move = 1UL << 5,

    /// <summary><c>UFFDIO_WRITEPROTECT</c>.</summary>
    WriteProtect = 1UL << 6,

    /// <summary><c>UFFDIO_CONTINUE</c>.</summary>
    Continue = 1UL << 7,

    /// <summary><c>UFFDIO_POISON</c>.</summary>
    Poison = 1UL << 8,
}
