using System.Net;
using System.Net.Security;
using System.Net.Sockets;
using Postcopy.Uffd.Qemu.Interop;

namespace Postcopy.Uffd.Qemu;

/// <summary>One connection of a migration: bytes in both directions, with an end that comes promptly.</summary>
/// <remarks>
/// One thread receives and one thread sends at a time; <see cref="Abort"/> and <see cref="Dispose()"/> may come from any
/// thread and end a waiting <see cref="Receive"/> or <see cref="Send"/>. Buffers may be native memory but never guest memory
/// that may be missing.
/// </remarks>
public abstract class MigrationChannel : IDisposable
{
    private long _received;
    private bool _receiving;

    private protected MigrationChannel()
    {
    }

    /// <summary>How long one receive or send may stand still; <see cref="Timeout.InfiniteTimeSpan"/> (the default) waits for ever.</summary>
    public TimeSpan StallTimeout { get; set; } = Timeout.InfiniteTimeSpan;

    /// <summary>True when <see cref="TrySend"/> can send; false for TLS and other streams, which only know blocking writes.</summary>
    public abstract bool CanTrySend { get; }

    /// <summary>Uses a connected stream socket, TCP or Unix, and closes it in the end.</summary>
    /// <param name="socket">The socket; from now on it belongs to the channel.</param>
    public static MigrationChannel FromSocket(Socket socket)
    {
        ArgumentNullException.ThrowIfNull(socket);
        return new SocketChannel(socket);
    }

    /// <summary>Uses a stream, for example an authenticated <see cref="SslStream"/>, and closes it in the end.</summary>
    /// <param name="stream">A stream that can be read, or written, or both at once from two threads.</param>
    /// <param name="transport">The socket below the stream: shutting it down is what ends a waiting read at once.</param>
    public static MigrationChannel FromStream(Stream stream, Socket? transport = null)
    {
        ArgumentNullException.ThrowIfNull(stream);
        return new StreamChannel(stream, transport);
    }

    /// <summary>Waits for bytes and takes what is there, at most the buffer's length; 0 means that the peer closed its side.</summary>
    /// <param name="buffer">Where the bytes go; not empty.</param>
    /// <exception cref="MigrationConnectionException">The connection is lost, stalled or given up.</exception>
    public abstract int Receive(Span<byte> buffer);

    /// <summary>Sends all bytes, waiting for room as long as the stall time-out allows.</summary>
    /// <param name="data">The bytes.</param>
    /// <exception cref="MigrationConnectionException">The connection is lost, stalled or given up.</exception>
    public abstract void Send(ReadOnlySpan<byte> data);

    /// <summary>Sends what fits without waiting, allocating or throwing; the fault thread may call it.</summary>
    /// <param name="data">The bytes, in native memory or pinned by the caller's frame.</param>
    /// <returns>The number of bytes taken, 0 when there is no room now, -1 when the connection is lost.</returns>
    public abstract int TrySend(ReadOnlySpan<byte> data);

    /// <summary>Gives the connection up: waiting calls of other threads fail with <see cref="ConnectionLossReason.Aborted"/>.</summary>
    /// <remarks>
    /// Closing comes with <see cref="Dispose()"/>, which resets a TCP connection that was given up or lost: to a peer that waits
    /// at a full window an orderly end says nothing (measured: QEMU 11.1 stood in sendmsg for more than 20 s).
    /// </remarks>
    public abstract void Abort();

    /// <summary>Closes the connection: in order when all went well, else with a reset.</summary>
    public void Dispose()
    {
        Dispose(true);
        GC.SuppressFinalize(this);
    }

    /// <summary>Closes the connection.</summary>
    /// <param name="disposing">Always true: the channel itself has no finalizer.</param>
    protected abstract void Dispose(bool disposing);

    /// <summary>Bytes received so far.</summary>
    internal long ReceivedBytes => Volatile.Read(ref _received);

    /// <summary>True when <see cref="ReceiveScattered"/> works.</summary>
    internal virtual bool CanScatter => false;

    /// <summary>As <see cref="Receive"/>, into several buffers one after the other.</summary>
    /// <param name="vectors">Native memory.</param>
    /// <param name="count">How many, at most 1024.</param>
    internal virtual unsafe int ReceiveScattered(Libc.IoVector* vectors, int count) => throw new NotSupportedException();

    /// <summary>True when nothing can be received now, not even the end. Any thread; false when this side has closed it.</summary>
    internal abstract bool IsSilent { get; }

    /// <summary>Waits a little for something to receive; the channel's receiving thread.</summary>
    /// <returns>False when nothing came, or when the channel cannot tell without a receive that may wait for ever.</returns>
    internal abstract bool WaitForMore(TimeSpan patience);

    /// <summary>The host at the other end; null when it is this one over a Unix socket, or not known.</summary>
    internal IPAddress? PeerAddress { get; private protected init; }

    /// <summary>The peer's address of a socket that is connected still.</summary>
    internal static IPAddress? AddressOf(Socket? socket)
    {
        try
        {
            return (socket?.RemoteEndPoint as IPEndPoint)?.Address;
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException)
        {
            return null;
        }
    }

    /// <summary>True while a thread is inside <see cref="Receive"/>: not merely busy with what it got.</summary>
    internal bool IsReceiving => Volatile.Read(ref _receiving);

    private protected int Received(int bytes)
    {
        Volatile.Write(ref _received, _received + bytes);
        return bytes;
    }

    private protected bool Receiving
    {
        set => Volatile.Write(ref _receiving, value);
    }

    private protected int StallTimeoutMilliseconds =>
        StallTimeout == Timeout.InfiniteTimeSpan ? -1 : (int)Math.Clamp(StallTimeout.TotalMilliseconds, 1, int.MaxValue);
}
