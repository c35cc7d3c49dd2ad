namespace Postcopy.Uffd.Qemu;

/// <summary>Why a connection to the peer can no longer be used.</summary>
public enum ConnectionLossReason
{
    /// <summary>The peer closed its side; in the middle of a record the bytes that were missing never came.</summary>
    ClosedByPeer,

    /// <summary>The kernel or the TLS layer reported an error (reset, broken pipe, a failed handshake).</summary>
    TransportError,

    /// <summary>Nothing could be received or sent for longer than the channel's time-out.</summary>
    TimedOut,

    /// <summary>This side gave the connection up: <see cref="MigrationChannel.Abort"/> or disposal.</summary>
    Aborted,
}
