namespace Postcopy.Uffd;

/// <summary>Sizes and rules of a <see cref="BlocktimeTracker"/>; all of its memory is bounded by them.</summary>
public sealed class BlocktimeOptions
{
    /// <summary>The most slots a tracker can be asked to hold.</summary>
    public const int SlotLimit = 4096;

    /// <summary>The clock behind <see cref="BlocktimeTracker.Now"/>; hot calls take their stamps as arguments.</summary>
    public TimeProvider TimeProvider { get; init; } = TimeProvider.System;

    /// <summary>
    /// How many vCPU slots may ever be added, 1 to <see cref="SlotLimit"/>. A removed slot keeps its row in the report
    /// and its place; a vCPU that is plugged in again takes its old slot by <see cref="BlocktimeTracker.RebindVcpu(VcpuSlot, uint)"/>.
    /// </summary>
    public int MaxSlots { get; init; } = 256;

    /// <summary>How idle slots enter the total.</summary>
    public IdleSlots IdleSlots { get; init; } = IdleSlots.LeftOut;

    /// <summary>
    /// The smallest page size in use, a power of two. Fault addresses are rounded down to it, and a placement of at most
    /// one such page costs one look at the filter: set 2 MiB when all memory is backed by 2 MiB pages.
    /// </summary>
    public nuint PageSize { get; init; } = 4096;

    /// <summary>
    /// How many episodes of one slot can await the fold, a power of two from 8 to 65536 (64 bytes each).
    /// Larger rings let one vCPU's long stall last longer before others' episodes must be folded by assumption.
    /// </summary>
    public int RingCapacity { get; init; } = 256;

    /// <summary>How many open faults of threads that are no vCPUs are measured at once, 1 to 4096; further ones are counted.</summary>
    public int OtherCapacity { get; init; } = 256;

    /// <summary>
    /// How many blocked intervals the timeline keeps, up to 16 777 216; what comes later is counted. 0 switches it off. The
    /// memory, 48 bytes for each, is taken when the tracker is built: a million is 48 MB.
    /// </summary>
    public int TimelineCapacity { get; init; } = 4096;

    internal void Validate()
    {
        ArgumentNullException.ThrowIfNull(TimeProvider);
        CheckRange(nameof(MaxSlots), MaxSlots, 1, SlotLimit);
        CheckRange(nameof(OtherCapacity), OtherCapacity, 1, 4096);
        CheckRange(nameof(TimelineCapacity), TimelineCapacity, 0, 1 << 24);
        CheckRange(nameof(RingCapacity), RingCapacity, 8, 65536);
        if ((RingCapacity & (RingCapacity - 1)) != 0)
        {
            throw new ArgumentException($"RingCapacity is {RingCapacity}; it must be a power of two from 8 to 65536.");
        }

        if (PageSize < 4096 || (PageSize & (PageSize - 1)) != 0)
        {
            throw new ArgumentException($"PageSize is {PageSize}; it must be a power of two of at least 4096.");
        }

        if (IdleSlots is not (IdleSlots.LeftOut or IdleSlots.StandingStill))
        {
            throw new ArgumentException($"IdleSlots is {(int)IdleSlots}; it must be LeftOut or StandingStill.");
        }
    }

    private static void CheckRange(string name, int value, int least, int most)
    {
        if (value < least || value > most)
        {
            throw new ArgumentException($"{name} is {value}; it must be {least} to {most}.");
        }
    }
}
