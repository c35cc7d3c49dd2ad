namespace Postcopy.Uffd.Qemu;

/// <summary>What a connection carries. Its first byte tells, except that a silent urgent channel tells nothing.</summary>
public enum StreamKind
{
    /// <summary>Not known before the first bytes are there.</summary>
    Unknown,

    /// <summary>A migration from its beginning: starts with "QEVM".</summary>
    Main,

    /// <summary>The main stream after a reconnect: starts with a command.</summary>
    Recovery,

    /// <summary>The postcopy-preempt channel: bare RAM records of requested pages.</summary>
    Urgent,
}
