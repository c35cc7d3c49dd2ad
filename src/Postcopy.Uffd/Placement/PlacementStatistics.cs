namespace Postcopy.Uffd;

/// <summary>What a placer did so far, read while it works: each figure is exact, their sum is not of one moment.</summary>
public sealed record PlacementStatistics
{
    /// <summary>Bytes placed by COPY.</summary>
    public long CopiedBytes { get; init; }

    /// <summary>Bytes placed by ZEROPAGE, or by COPY of zeros where the memory has no ZEROPAGE.</summary>
    public long ZeroBytes { get; init; }

    /// <summary>Bytes mapped by CONTINUE from the page cache.</summary>
    public long ContinuedBytes { get; init; }

    /// <summary>Pages placed by COPY, each of its block's size.</summary>
    public long CopiedPages { get; init; }

    /// <summary>Pages placed by ZEROPAGE, or by COPY of zeros.</summary>
    public long ZeroPages { get; init; }

    /// <summary>Pages mapped by CONTINUE.</summary>
    public long ContinuedPages { get; init; }

    /// <summary>Placing ioctls that did something.</summary>
    public long Operations { get; init; }

    /// <summary>Pages that were given although they were received: not touched.</summary>
    public long AlreadyReceivedPages { get; init; }

    /// <summary>Times the kernel had a page already; the page tables confirmed each.</summary>
    public long AlreadyPresentPages { get; init; }

    /// <summary>Times an ioctl did a part and was resumed.</summary>
    public long PartialOperations { get; init; }

    /// <summary>Pauses because the address space was changing or memory was short.</summary>
    public long Pauses { get; init; }

    /// <summary>Placements that a waiter was open for.</summary>
    public long AwaitedPlacements { get; init; }

    /// <summary>Pages that were received, not placed yet, and placed at once because a thread faulted on them.</summary>
    public long StagedPagesPlacedOnFault { get; init; }
}
