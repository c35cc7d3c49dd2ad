namespace Postcopy.Uffd;

/// <summary>Modes of MOVE, with the kernel's values.</summary>
[Flags]
public enum UffdMoveFlags : ulong
{
    /// <summary>Move, and wake the waiters of the range.</summary>
    None = 0,

    /// <summary>Do not wake; the caller owes a <see cref="UffdHandle.Wake"/>.</summary>
    DontWake = 1,

    /// <summary>Holes in the source are skipped, not an error.</summary>
    AllowSourceHoles = 2,
}
