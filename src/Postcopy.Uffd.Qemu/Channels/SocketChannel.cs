using System.Net.Sockets;
using System.Runtime.InteropServices;
using Postcopy.Uffd.Qemu.Interop;

namespace Postcopy.Uffd.Qemu;

/// <summary>
/// A socket used by system calls of its own: recv and send with MSG_DONTWAIT, then poll. So it does not matter whether the
/// runtime has made the descriptor non-blocking, nothing is allocated, and the socket engine's threads are not involved (H31).
/// </summary>
internal sealed unsafe class SocketChannel : MigrationChannel
{
    private readonly Socket _socket;
    private readonly SafeSocketHandle _handle;
    private readonly bool _quickAck;
    private volatile bool _aborted;
    private volatile bool _broken;

    internal SocketChannel(Socket socket)
    {
        _socket = socket;
        _quickAck = socket.ProtocolType == ProtocolType.Tcp;
        _handle = socket.SafeHandle;
        PeerAddress = AddressOf(socket);
    }

    public override bool CanTrySend => true;

    internal override bool IsSilent
    {
        get
        {
            try
            {
                return !_aborted && !Libc.WaitFor(_handle, Libc.POLLIN, 0);
            }
            catch (ObjectDisposedException)
            {
                return false;
            }
        }
    }

    internal override bool WaitForMore(TimeSpan patience)
    {
        try
        {
            return !_aborted && Libc.WaitFor(_handle, Libc.POLLIN, (int)patience.TotalMilliseconds);
        }
        catch (ObjectDisposedException)
        {
            return false;
        }
    }

    public override int Receive(Span<byte> buffer)
    {
        Receiving = true;
        try
        {
            return Received(ReceiveSome(buffer, null, 0));
        }
        catch (ObjectDisposedException)
        {
            throw Aborted();
        }
        finally
        {
            Receiving = false;
        }
    }

    internal override bool CanScatter => true;

    internal override int ReceiveScattered(Libc.IoVector* vectors, int count)
    {
        Receiving = true;
        try
        {
            return Received(ReceiveSome(default, vectors, count));
        }
        catch (ObjectDisposedException)
        {
            throw Aborted();
        }
        finally
        {
            Receiving = false;
        }
    }

    public override void Send(ReadOnlySpan<byte> data)
    {
        try
        {
            SendAll(data);
        }
        catch (ObjectDisposedException)
        {
            throw Aborted();
        }
    }

    public override int TrySend(ReadOnlySpan<byte> data)
    {
        if (_aborted || _handle.IsClosed)
        {
            return -1;
        }

        try
        {
            while (true)
            {
                // SAFETY: the span is pinned for the call.
                fixed (byte* pointer = data)
                {
                    nint sent = Libc.send(_handle, pointer, (nuint)data.Length, Libc.MSG_DONTWAIT | Libc.MSG_NOSIGNAL);
                    if (sent >= 0)
                    {
                        return (int)sent;
                    }
                }

                int errno = Marshal.GetLastPInvokeError();
                if (errno != Libc.EINTR)
                {
                    return errno == Libc.EAGAIN ? 0 : -1;
                }
            }
        }
        catch (ObjectDisposedException)
        {
            // Closed between the check and the call.
            return -1;
        }
    }

    public override void Abort()
    {
        _broken = true;
        ShutDown();
    }

    protected override void Dispose(bool disposing)
    {
        ShutDown();
        if (_broken)
        {
            _socket.CloseWithReset();
        }

        _socket.Dispose();
    }

    private void ShutDown()
    {
        _aborted = true;
        try
        {
            _socket.Shutdown(SocketShutdown.Both);
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException)
        {
            // Already disconnected or closed: nobody waits on it.
        }
    }

    private int ReceiveSome(Span<byte> buffer, Libc.IoVector* vectors, int count)
    {
        while (true)
        {
            nint got;
            int errno = 0;
            // SAFETY: the span is pinned for the call.
            fixed (byte* pointer = buffer)
            {
                ThrowIfAborted();
                Libc.MessageHeader message = new() { Vectors = vectors, VectorCount = (nuint)count };
                got = vectors is null
                    ? Libc.recv(_handle, pointer, (nuint)buffer.Length, Libc.MSG_DONTWAIT)
                    : Libc.recvmsg(_handle, &message, Libc.MSG_DONTWAIT);
                if (got < 0)
                {
                    errno = Marshal.GetLastPInvokeError();
                }
            }

            if (got > 0)
            {
                if (_quickAck)
                {
                    _handle.AcknowledgeAtOnce();
                }

                return (int)got;
            }

            // A shutdown of our own looks like an orderly end: say what it was.
            ThrowIfAborted();
            if (got == 0)
            {
                return 0;
            }

            WaitOrThrow(errno, Libc.POLLIN, "received");
        }
    }

    private void SendAll(ReadOnlySpan<byte> data)
    {
        while (!data.IsEmpty)
        {
            nint sent;
            int errno = 0;
            // SAFETY: the span is pinned for the call.
            fixed (byte* pointer = data)
            {
                ThrowIfAborted();
                sent = Libc.send(_handle, pointer, (nuint)data.Length, Libc.MSG_DONTWAIT | Libc.MSG_NOSIGNAL);
                if (sent < 0)
                {
                    errno = Marshal.GetLastPInvokeError();
                }
            }

            if (sent >= 0)
            {
                data = data[(int)sent..];
                continue;
            }

            ThrowIfAborted();
            WaitOrThrow(errno, Libc.POLLOUT, "sent");
        }
    }

    private void ThrowIfAborted()
    {
        if (_aborted || _handle.IsClosed)
        {
            throw Aborted();
        }
    }

    private static MigrationConnectionException Aborted() =>
        new(ConnectionLossReason.Aborted, "The connection was given up by this side.");

    private void WaitOrThrow(int errno, short events, string direction)
    {
        if (errno == Libc.EINTR)
        {
            return;
        }

        if (errno != Libc.EAGAIN)
        {
            _broken = true;
            throw new MigrationConnectionException(
                ConnectionLossReason.TransportError, $"Nothing more can be {direction}: {Marshal.GetPInvokeErrorMessage(errno)}.", errno);
        }

        if (!Libc.WaitFor(_handle, events, StallTimeoutMilliseconds))
        {
            _broken = true;
            throw new MigrationConnectionException(
                ConnectionLossReason.TimedOut, $"Nothing was {direction} for {StallTimeout.TotalSeconds:0.###} s.", Libc.ETIMEDOUT);
        }
    }
}
