namespace Postcopy.Uffd;

/// <summary>How a placer behaves.</summary>
public sealed record PlacerOptions
{
    /// <summary>
    /// How long a placement waits for an address space that is changing, for memory or for a huge page, before it gives
    /// the page back to the caller; the default is 10 s. It pauses between tries and never spins.
    /// </summary>
    public TimeSpan Deadline { get; init; } = TimeSpan.FromSeconds(10);

    /// <summary>
    /// The longest COPY in one ioctl, in bytes; the default is 256 KiB. Longer ones are not faster per page (measured:
    /// 64 KiB and 2 MiB cost the same) and wake their waiters later.
    /// </summary>
    public int CopyRunBytes { get; init; } = 256 << 10;

    /// <summary>
    /// Whether whole stretches of 2 MiB are placed as transparent huge pages (<see cref="PostcopyPlacer.PlaceStretch"/> and
    /// <see cref="StagingWindow"/>); the default is <see cref="StretchPlacement.Auto"/>.
    /// </summary>
    public StretchPlacement Stretches { get; init; }

    /// <summary>
    /// With <see cref="StretchPlacement.WholeOnFault"/>: how long a page that has come, and that a thread waits for, is kept back for the rest
    /// of its stretch: 0 to 60 s, the default is 20 ms. Then it is placed alone, and the stretch by pages. Counted from when the fault thread
    /// first finds the page here, which it looks for every 5 ms or more often. <see cref="PostcopyDestination.EnsurePresentAsync"/> is no fault: it
    /// waits until the stretch is full or the channel has nothing more at hand.
    /// </summary>
    public TimeSpan StretchPatience { get; init; } = TimeSpan.FromMilliseconds(20);

    /// <summary>
    /// Of the 512 pages of a stretch, how many may be zero for it to become a huge page, in which they take memory; the
    /// default is 448. More, and it is placed page by page.
    /// </summary>
    public int StretchZeroPages { get; init; } = 448;

    /// <summary>
    /// Whether whole stretches of 2 MiB of zeros are placed by MOVE of the kernel's huge zero page (Linux 6.8; private
    /// anonymous memory): an eighth of the time of ZEROPAGE, and no memory either. Off by default, because the guest's first
    /// write to such a stretch takes 2 MiB where it would have taken 4 KiB. Where the kernel gives no huge zero page
    /// (<c>use_zero_page</c> is 0, or a guest under PVM, where a read takes memory), or does not tell it from memory (PAGEMAP_SCAN
    /// before a fix of June 2025; 6.18 has it), zeros are placed as without it.
    /// </summary>
    public bool HugeZeroPages { get; init; }

    /// <summary>The clock of the deadline.</summary>
    public TimeProvider TimeProvider { get; init; } = TimeProvider.System;
}
