namespace Postcopy.Uffd;

/// <summary>What a fault message meant to the tracker.</summary>
public enum BeginKind
{
    /// <summary>The message repeats an open fault of the same thread; there is nothing to confirm.</summary>
    Duplicate,

    /// <summary>A vCPU started to wait; the ticket asks for <see cref="BlocktimeTracker.Confirm"/> or <see cref="BlocktimeTracker.Cancel"/>.</summary>
    New,

    /// <summary>A thread that is no vCPU started to wait: its latency is measured, blocktime is not touched.</summary>
    Other,
}
