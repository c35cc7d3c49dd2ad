namespace Postcopy.Uffd;

/// <summary>What backs guest memory.</summary>
public enum GuestMemoryKind
{
    /// <summary>Private anonymous memory: all placing operations, MOVE included.</summary>
    Anonymous = 0,

    /// <summary>A memfd, mapped shared: other processes can map it too (vhost-user).</summary>
    Memfd,

    /// <summary>Huge pages of 2 MiB or 1 GiB from the reserved pool; no ZEROPAGE, no MOVE.</summary>
    Hugetlb,
}
