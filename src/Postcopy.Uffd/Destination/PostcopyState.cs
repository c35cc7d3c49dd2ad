namespace Postcopy.Uffd;

/// <summary>Where an incoming postcopy stands. The names and their order are QEMU's (POSTCOPY_INCOMING_*).</summary>
public enum PostcopyState
{
    /// <summary>Nothing is agreed yet.</summary>
    None = 0,

    /// <summary>The source said that it may switch to postcopy; precopy pages may come.</summary>
    Advise,

    /// <summary>The source names the pages that are stale here.</summary>
    Discard,

    /// <summary>Memory is registered and faults are served; the vCPUs do not run yet.</summary>
    Listen,

    /// <summary>The guest runs here. From now on the source must never resume it.</summary>
    Running,

    /// <summary>The link is down; the guest goes on with what it has, faults wait.</summary>
    Paused,

    /// <summary>Everything arrived, and the memory is ordinary memory again.</summary>
    End,

    /// <summary>It went wrong for good; the guest stays frozen where it touches what is missing.</summary>
    Failed,
}
