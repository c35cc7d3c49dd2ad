using System.Net.Sockets;
using Postcopy.Uffd.Qemu.Interop;

namespace Postcopy.Uffd.Qemu;

/// <summary>A stream as a connection: TLS, pipes, captured files. Only blocking calls; the caller brings the threads.</summary>
internal sealed class StreamChannel : MigrationChannel
{
    private readonly Stream _stream;
    private readonly Socket? _transport;
    private readonly bool _quickAck;
    private volatile bool _aborted;
    private volatile bool _broken;

    internal StreamChannel(Stream stream, Socket? transport)
    {
        _stream = stream;
        _transport = transport;
        _quickAck = transport is { ProtocolType: ProtocolType.Tcp };
        PeerAddress = AddressOf(transport);
    }

    public override bool CanTrySend => false;

    /// <summary>A stream without a socket cannot be asked.</summary>
    internal override bool IsSilent
    {
        get
        {
            try
            {
                return !_aborted && (_transport is null || !Libc.WaitFor(_transport.SafeHandle, Libc.POLLIN, 0));
            }
            catch (ObjectDisposedException)
            {
                return false;
            }
        }
    }

    /// <summary>A file never waits; what a TLS stream has decrypted already is not seen, which costs a stretch.</summary>
    internal override bool WaitForMore(TimeSpan patience)
    {
        try
        {
            return !_aborted && (_transport is not null
                ? Libc.WaitFor(_transport.SafeHandle, Libc.POLLIN, (int)patience.TotalMilliseconds)
                : _stream.CanSeek && _stream.Position < _stream.Length);
        }
        catch (ObjectDisposedException)
        {
            return false;
        }
    }

    internal override bool CanScatter => _stream is IScatteredStream;

    internal override unsafe int ReceiveScattered(Libc.IoVector* vectors, int count) => Receive(default, vectors, count);

    public override unsafe int Receive(Span<byte> buffer) => Receive(buffer, null, 0);

    private unsafe int Receive(Span<byte> buffer, Libc.IoVector* vectors, int count)
    {
        try
        {
            ApplyTimeout(reading: true);
            Receiving = true;
            int got = vectors is null ? _stream.Read(buffer) : ((IScatteredStream)_stream).Read(vectors, count);
            if (_quickAck)
            {
                _transport!.SafeHandle.AcknowledgeAtOnce();
            }

            return got == 0 && _aborted ? throw Lost(null) : Received(got);
        }
        catch (Exception e) when (IsTransportFailure(e))
        {
            throw Lost(e);
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
            ApplyTimeout(reading: false);
            _stream.Write(data);
            _stream.Flush();
        }
        catch (Exception e) when (IsTransportFailure(e))
        {
            throw Lost(e);
        }
    }

    public override int TrySend(ReadOnlySpan<byte> data) => _aborted ? -1 : 0;

    public override void Abort()
    {
        _broken = true;
        ShutDown();
    }

    protected override void Dispose(bool disposing)
    {
        ShutDown();
        try
        {
            if (_broken)
            {
                _transport?.CloseWithReset();
            }

            // The socket goes first: a TLS goodbye to a peer that does not read would wait.
            _transport?.Dispose();
            _stream.Dispose();
        }
        catch (Exception e) when (IsTransportFailure(e))
        {
            // The goodbye of a broken TLS connection fails; the descriptor is closed all the same.
        }
    }

    private void ShutDown()
    {
        _aborted = true;
        try
        {
            if (_transport is not null)
            {
                _transport.Shutdown(SocketShutdown.Both);
            }
            else
            {
                _stream.Dispose();
            }
        }
        catch (Exception e) when (IsTransportFailure(e))
        {
            // Already closed: nobody waits on it.
        }
    }

    private static bool IsTransportFailure(Exception e) =>
        e is IOException or SocketException or ObjectDisposedException or InvalidOperationException or NotSupportedException
        && e is not MigrationConnectionException;

    private void ApplyTimeout(bool reading)
    {
        if (!_stream.CanTimeout)
        {
            return;
        }

        int milliseconds = StallTimeoutMilliseconds;
        if (reading && _stream.ReadTimeout != milliseconds)
        {
            _stream.ReadTimeout = milliseconds;
        }
        else if (!reading && _stream.WriteTimeout != milliseconds)
        {
            _stream.WriteTimeout = milliseconds;
        }
    }

    private MigrationConnectionException Lost(Exception? cause)
    {
        _broken = true;
        if (_aborted)
        {
            return new MigrationConnectionException(ConnectionLossReason.Aborted, "The connection was given up by this side.", 0, cause);
        }

        SocketException? socketError = cause as SocketException ?? cause?.InnerException as SocketException;
        bool timedOut = socketError?.SocketErrorCode is SocketError.TimedOut or SocketError.WouldBlock;
        return new MigrationConnectionException(
            timedOut ? ConnectionLossReason.TimedOut : ConnectionLossReason.TransportError,
            timedOut ? $"The stream stood still for {StallTimeout.TotalSeconds:0.###} s." : $"The stream failed: {cause?.Message}",
            socketError?.NativeErrorCode ?? 0,
            cause);
    }
}
