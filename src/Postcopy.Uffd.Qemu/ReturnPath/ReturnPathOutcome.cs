namespace Postcopy.Uffd.Qemu;

/// <summary>What became of a message that may not wait.</summary>
public enum ReturnPathOutcome
{
    /// <summary>It is in the socket, or in the queue in front of it, in its place.</summary>
    Sent,

    /// <summary>The queue is full: ask again later.</summary>
    Busy,

    /// <summary>The connection is lost: ask again after the reconnect.</summary>
    Disconnected,
}
