namespace Postcopy.Uffd;

/// <summary>What a RAM block is made of.</summary>
public sealed record RamBlockSpec
{
    /// <summary>Its name on the wire, such as <c>pc.ram</c>: 1 to 255 bytes of UTF-8, unique in the registry.</summary>
    public required string Name { get; init; }

    /// <summary>The memory it lies in; null when <see cref="HostAddress"/> says where.</summary>
    public GuestMemory? Memory { get; init; }

    /// <summary>Where it starts in <see cref="Memory"/>, in bytes.</summary>
    public long MemoryOffset { get; init; }

    /// <summary>
    /// Where the host mapped it, when it is not a <see cref="GuestMemory"/>. Safety: the mapping must outlive the
    /// registry, and whether it is shared is read from <c>/proc/self/maps</c> when the block is added.
    /// </summary>
    public nuint HostAddress { get; init; }

    /// <summary>Used bytes: a multiple of the page size, more than 0. Default: the rest of <see cref="Memory"/>.</summary>
    public long UsedLength { get; init; }

    /// <summary>The size of its pages; the default is the memory's, or the host's.</summary>
    public PageSize? PageSize { get; init; }

    /// <summary>Where it starts in the guest; for reports and alignment only.</summary>
    public ulong GuestPhysicalAddress { get; init; }
}
