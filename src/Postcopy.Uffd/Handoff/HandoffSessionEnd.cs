namespace Postcopy.Uffd;

/// <summary>Why a handler's session ended.</summary>
public enum HandoffSessionEnd
{
    /// <summary>The owner has every page and unregistered the memory: nothing is left to serve.</summary>
    Completed = 1,

    /// <summary>The owner closed the connection while pages are missing: another handler takes over, or it closed its memory.</summary>
    Closed,

    /// <summary>The owner's process has ended, and its memory with it.</summary>
    OwnerGone,

    /// <summary>The fault thread met something it cannot go on with; <see cref="HandoffSession.Failure"/> has it.</summary>
    Failed,
}
