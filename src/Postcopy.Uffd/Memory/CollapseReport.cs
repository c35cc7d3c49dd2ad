namespace Postcopy.Uffd;

/// <summary>What <see cref="PostcopyDestination.CollapseAsync"/> did, and how long the guest may have stood still for it.</summary>
public sealed record CollapseReport
{
    /// <summary>Stretches of 2 MiB that were huge pages already.</summary>
    public long Huge { get; init; }

    /// <summary>Stretches that are huge pages now.</summary>
    public long Collapsed { get; init; }

    /// <summary>Stretches that have more zeros than <see cref="CollapseOptions.MostZeroPages"/>.</summary>
    public long Sparse { get; init; }

    /// <summary>Stretches that the kernel did not collapse: no huge page free, pages pinned or locked by others.</summary>
    public long Refused { get; init; }

    /// <summary>The error number of the last that was refused; 0 when none was.</summary>
    public int LastErrno { get; init; }

    /// <summary>The time inside the kernel, all calls together: the most that one vCPU can have lost.</summary>
    public TimeSpan Busy { get; init; }

    /// <summary>The longest call: the longest stall that a vCPU can have had at once.</summary>
    public TimeSpan Longest { get; init; }

    /// <summary>From the first look to the last, pauses included.</summary>
    public TimeSpan Duration { get; init; }
}
