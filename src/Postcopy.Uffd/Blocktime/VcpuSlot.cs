using System.Diagnostics;

namespace Postcopy.Uffd;

/// <summary>The tracker's handle of one vCPU; it outlives the thread that runs the vCPU.</summary>
[DebuggerDisplay("vCPU slot {Index}, thread {ThreadId}")]
public sealed class VcpuSlot
{
    /// <summary>How many faults of one vCPU can be open at once: the one it waits for and three it has left (cases 5 and 6).</summary>
    internal const int LiveWaits = 4;

    internal readonly BlocktimeTracker Owner;
    internal readonly WaitRecord[] Records;

    // Episodes [Tail, Head) await the fold. Head is written by the reader alone, Tail by the holder of the fold.
    internal long Head;
    internal long Tail;

    // A thread that left the guest at this moment is not blocked by anything read before it.
    internal long LeftAt = long.MinValue;
    internal bool Removed;

    // The ring is looked at again when Head gets here: a fold that could free nothing must not run on every placement.
    internal long FoldAgainAt;

    // Written by the reader alone.
    internal long Duplicates;
    internal long Cancelled;
    internal long Untracked;
    internal long UntrackedSince = long.MinValue;
    internal long UntrackedTime;

    internal VcpuSlot(BlocktimeTracker owner, int index, uint threadId, string? name, int ringCapacity)
    {
        Owner = owner;
        Index = index;
        ThreadId = threadId;
        Name = name;
        Records = new WaitRecord[ringCapacity];
        FoldAgainAt = ringCapacity / 2;
        for (int i = 0; i < Records.Length; i++)
        {
            // A sequence number that no episode ever carries, so that record 0 cannot look like episode 0.
            Records[i].State = WaitRecord.Word(-1, WaitRecord.Free);
        }
    }

    /// <summary>The slot's place in the report, counted from 0 in the order of adding.</summary>
    public int Index { get; }

    /// <summary>The thread that runs the vCPU now, by the number the kernel reports in fault messages.</summary>
    public uint ThreadId { get; internal set; }

    /// <summary>The caller's name for the vCPU, if it gave one.</summary>
    public string? Name { get; }

    internal ref WaitRecord Record(long sequence) => ref Records[(int)sequence & (Records.Length - 1)];
}
