namespace Postcopy.Uffd;

/// <summary>What a control thread told the tracker.</summary>
internal enum ControlKind
{
    Join,
    Leave,
    Idle,
    Busy,
    LinkUp,
    LinkDown,
}

/// <summary>A change of membership, idleness or link at a moment; the sweep merges these with the episodes.</summary>
internal readonly record struct ControlEvent(long At, int Slot, ControlKind Kind);
