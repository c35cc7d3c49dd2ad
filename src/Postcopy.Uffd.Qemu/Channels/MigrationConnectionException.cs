namespace Postcopy.Uffd.Qemu;

/// <summary>
/// A connection was lost. The bytes so far were right: after the switch to postcopy the migration pauses and can go on over
/// a new connection, whereas a <see cref="MigrationStreamException"/> means that the peer cannot be understood.
/// </summary>
public sealed class MigrationConnectionException : IOException
{
    internal MigrationConnectionException(ConnectionLossReason reason, string message, int errno = 0, Exception? inner = null)
        : base(message, inner)
    {
        Reason = reason;
        Errno = errno;
    }

    /// <summary>What ended the connection.</summary>
    public ConnectionLossReason Reason { get; }

    /// <summary>The kernel's error number, or 0 when it was not the kernel that reported it.</summary>
    public int Errno { get; }

    /// <summary>The number of bytes received before, or -1 when the connection was lost in sending.</summary>
    public long StreamOffset { get; internal init; } = -1;

    /// <summary>The part of the stream that was being received, for example "ram" or "package"; null between sections.</summary>
    public string? Section { get; internal init; }
}
