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

    /// <summary>The clock of the deadline.</summary>
    public TimeProvider TimeProvider { get; init; } = TimeProvider.System;
}
