namespace Postcopy.Uffd;

/// <summary>One vCPU's row of a <see cref="BlocktimeReport"/>.</summary>
public sealed class VcpuBlocktime
{
    internal VcpuBlocktime(VcpuSlot slot, in PresentedTime time, in SlotSweep state, long duplicates)
    {
        Slot = slot.Index;
        ThreadId = slot.ThreadId;
        Name = slot.Name;
        Removed = slot.Removed;
        BlocktimeNanoseconds = time.Total;
        LinkDownNanoseconds = time.Down;
        OverlapNanoseconds = time.Overlap;
        Episodes = state.Episodes;
        MeanLatencyNanoseconds = state.Episodes == 0 ? 0 : state.LatencySum / state.Episodes;
        MaxLatencyNanoseconds = state.LatencyMax;
        MovedOn = state.MovedOn;
        LeftGuest = state.LeftGuest;
        Unresolved = state.Unresolved;
        Duplicates = duplicates;
    }

    /// <summary>The slot's index.</summary>
    public int Slot { get; }

    /// <summary>The thread that ran the vCPU last.</summary>
    public uint ThreadId { get; }

    /// <summary>The caller's name for the vCPU, if it gave one.</summary>
    public string? Name { get; }

    /// <summary>Whether the vCPU has been taken out.</summary>
    public bool Removed { get; }

    /// <summary>How long the vCPU was blocked, open stalls up to the reading included.</summary>
    public long BlocktimeNanoseconds { get; }

    /// <summary>The part of it with the link up.</summary>
    public long LinkUpNanoseconds => BlocktimeNanoseconds - LinkDownNanoseconds;

    /// <summary>The part of it with the link down.</summary>
    public long LinkDownNanoseconds { get; }

    /// <summary>The part of it in which all others were blocked too: the total that accrued while it was a member.</summary>
    public long OverlapNanoseconds { get; }

    /// <summary>How many fault episodes are over, the unresolved ones not counted.</summary>
    public long Episodes { get; }

    /// <summary>The mean length of those, 0 without any.</summary>
    public long MeanLatencyNanoseconds { get; }

    /// <summary>The length of the longest.</summary>
    public long MaxLatencyNanoseconds { get; }

    /// <summary>How many of the episodes ended because the vCPU went on to another fault (an interrupt came in between).</summary>
    public long MovedOn { get; }

    /// <summary>How many of the episodes ended because the thread left the guest, was re-bound or removed.</summary>
    public long LeftGuest { get; }

    /// <summary>How many stalls were open when the migration was abandoned.</summary>
    public long Unresolved { get; }

    /// <summary>How many messages repeated an open fault.</summary>
    public long Duplicates { get; }
}
