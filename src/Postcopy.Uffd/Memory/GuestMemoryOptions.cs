namespace Postcopy.Uffd;

/// <summary>What guest memory is wanted.</summary>
public sealed record GuestMemoryOptions
{
    /// <summary>Bytes; a multiple of <see cref="PageSize"/>, more than 0.</summary>
    public required long Length { get; init; }

    /// <summary>What backs it.</summary>
    public GuestMemoryKind Kind { get; init; }

    /// <summary>
    /// The page size: the host's for anonymous memory and memfd, 2 MiB or 1 GiB for hugetlb. The default is the
    /// host's, or 2 MiB for hugetlb.
    /// </summary>
    public PageSize? PageSize { get; init; }

    /// <summary>
    /// Hugetlb only: a memfd mapped shared instead of a private mapping. A memfd of small pages is always shared.
    /// </summary>
    public bool Shared { get; init; }

    /// <summary>
    /// Where the memory starts in the guest. The mapping is laid so that the host address and this one agree modulo
    /// 2 MiB (1 GiB with pages of that size): without it the host cannot use huge pages for the guest.
    /// </summary>
    public ulong GuestPhysicalAddress { get; init; }

    /// <summary>A name for <c>/proc/PID/maps</c>, for memfds.</summary>
    public string Name { get; init; } = "guest-ram";
}
