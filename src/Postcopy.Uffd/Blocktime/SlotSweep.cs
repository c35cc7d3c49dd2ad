namespace Postcopy.Uffd;

/// <summary>What the sweep knows of one slot: where it stands, and what it has added up.</summary>
internal struct SlotSweep
{
    // The first record not consumed, and the first that may not be closed yet.
    internal long Tail;
    internal long Settled;

    internal bool Member;
    internal bool Idle;

    // The start of record Tail has been passed, its end not.
    internal bool Blocked;
    internal bool PlannedClosed;
    internal long PlannedEnd;

    // Blocked and of weight for the total; with the total as it stood when that began.
    internal bool Counting;
    internal long TotalAtStart;
    internal long DownAtStart;

    internal long Blocktime;
    internal long BlocktimeDown;
    internal long Overlap;
    internal long Episodes;
    internal long LatencySum;
    internal long LatencyMax;
    internal long MovedOn;
    internal long LeftGuest;
    internal long Unresolved;
}
