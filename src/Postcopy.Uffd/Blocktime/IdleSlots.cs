namespace Postcopy.Uffd;

/// <summary>How a vCPU that is idle (halted, paused) enters the total blocktime.</summary>
public enum IdleSlots
{
    /// <summary>
    /// An idle slot is no member: the total asks only the slots that are not idle, and at least one of them.
    /// A stall of an idle slot counts for the slot, not for the total.
    /// </summary>
    LeftOut,

    /// <summary>
    /// An idle slot stands still like a blocked one. The total still needs one slot that really waits for a page:
    /// a guest whose vCPUs are all merely idle has no blocktime.
    /// </summary>
    StandingStill,
}
