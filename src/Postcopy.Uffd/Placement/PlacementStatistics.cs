namespace Postcopy.Uffd;

/// <summary>What a placer did so far, read while it works: each figure is exact, their sum is not of one moment.</summary>
public sealed record PlacementStatistics
{
    /// <summary>Bytes placed by COPY.</summary>
    public long CopiedBytes { get; init; }

    /// <summary>Bytes placed by ZEROPAGE, by MOVE of the huge zero page, or by COPY of zeros where the memory has no ZEROPAGE.</summary>
    public long ZeroBytes { get; init; }

    /// <summary>Bytes mapped by CONTINUE from the page cache.</summary>
    public long ContinuedBytes { get; init; }

    /// <summary>Bytes placed by MOVE of whole stretches of 2 MiB.</summary>
    public long MovedBytes { get; init; }

    /// <summary>The sum of the bytes of all methods.</summary>
    public long Bytes => CopiedBytes + ZeroBytes + ContinuedBytes + MovedBytes;

    /// <summary>Pages placed by COPY, each of its block's size.</summary>
    public long CopiedPages { get; init; }

    /// <summary>Pages placed by ZEROPAGE, or by COPY of zeros.</summary>
    public long ZeroPages { get; init; }

    /// <summary>Pages mapped by CONTINUE.</summary>
    public long ContinuedPages { get; init; }

    /// <summary>Pages placed by MOVE.</summary>
    public long MovedPages { get; init; }

    /// <summary>Zero pages among <see cref="MovedPages"/>: memory that a placement page by page would not have taken.</summary>
    public long MovedZeroPages { get; init; }

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

    /// <summary>
    /// Stretches of 2 MiB whose pages were gathered in staging. Each ends as one of those below; where
    /// <see cref="StretchesUnbacked"/> counts, none was begun.
    /// </summary>
    public long StretchesBegun { get; init; }

    /// <summary>Stretches that are one huge page in the guest now.</summary>
    public long StretchesMoved { get; init; }

    /// <summary>Stretches of zeros that are the kernel's huge zero page in the guest now (<see cref="PlacerOptions.HugeZeroPages"/>).</summary>
    public long ZeroStretchesMoved { get; init; }

    /// <summary>Stretches that were moved, but in small pages: the kernel found a page table there.</summary>
    public long StretchesSplit { get; init; }

    /// <summary>Stretches that were copied because a thread touched one, or a page of it came another way, before it was full.</summary>
    public long StretchesDisturbed { get; init; }

    /// <summary>Stretches that were copied because the source paused, ended or went elsewhere before it was full.</summary>
    public long StretchesUnfinished { get; init; }

    /// <summary>Stretches that were copied because too many of their pages are zero (<see cref="PlacerOptions.StretchZeroPages"/>).</summary>
    public long StretchesSparse { get; init; }

    /// <summary>Times the host had no huge page to give.</summary>
    public long StretchesUnbacked { get; init; }

    /// <summary>Stretches that were copied, wholly or from some page on, because the kernel did not move them.</summary>
    public long StretchesRefused { get; init; }
}
