using System.Diagnostics;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;
using Microsoft.Win32.SafeHandles;
using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd;

/// <summary>
/// The handler process's door: accepts guest memory that VMM processes hand over, by this library's message or by
/// Firecracker's handshake, and makes a <see cref="HandoffSession"/> of each.
/// </summary>
/// <remarks>
/// Needs no right to userfaultfd: the descriptor is a gift. Whatever a peer sends is checked first; a refused peer is told
/// why (only this library's can be) and keeps its descriptor, so nothing is lost. One thread accepts. Linux 5.3.
/// </remarks>
public sealed class HandoffListener : IDisposable
{
    private readonly HandoffListenerOptions _options;
    private readonly ILogger _logger;
    private readonly DescriptorSocket _socket;
    private readonly WakeEvent _stop = new();

    /// <summary>Listens.</summary>
    /// <param name="options">Where and how.</param>
    /// <exception cref="HandoffException">The path cannot be listened at; is it in use?</exception>
    /// <exception cref="ArgumentException">An option is not acceptable.</exception>
    public HandoffListener(HandoffListenerOptions options)
    {
        ArgumentNullException.ThrowIfNull(options);
        options.Validate();
        _options = options;
        _logger = (options.LoggerFactory ?? NullLoggerFactory.Instance).CreateLogger<HandoffListener>();
        _socket = DescriptorSocket.Listen(options.Path, backlog: 16);
    }

    /// <summary>
    /// Waits for the next owner. A peer that is not acceptable is refused and logged, and the wait goes on.
    /// </summary>
    /// <param name="cancellationToken">Gives up waiting.</param>
    /// <returns>A session that is not started yet.</returns>
    /// <exception cref="OperationCanceledException">The token was cancelled, or the listener disposed.</exception>
    public HandoffSession Accept(CancellationToken cancellationToken = default)
    {
        using CancellationTokenRegistration registration = cancellationToken.Register(_stop.Signal);
        while (true)
        {
            cancellationToken.ThrowIfCancellationRequested();
            if (!WaitForConnection())
            {
                throw new OperationCanceledException("Waiting for an owner was given up.", cancellationToken);
            }

            if (_socket.TryAccept() is not { } connection)
            {
                continue;
            }

            List<SafeFileHandle> descriptors = [];
            try
            {
                HandoffSession session = Receive(connection, descriptors);
                Log.HandoffAccepted(_logger, session.OwnerProcessId, session.Blocks.Blocks.Count, session.Blocks.TotalLength, session.IsFirecracker);
                return session;
            }
            catch (Exception e) when (e is HandoffException or UffdException or RamBlockException or OutOfMemoryException)
            {
                Refuse(connection, descriptors, e);
            }
        }
    }

    /// <summary>Stops listening and removes the socket's node. Sessions go on.</summary>
    public void Dispose()
    {
        _stop.Signal();
        _ = Libc.unlink(_options.Path);
        _socket.Dispose();
    }

    private unsafe bool WaitForConnection()
    {
        Libc.PollFd* poll = stackalloc Libc.PollFd[2];
        poll[0] = new() { fd = _stop.Descriptor, events = Libc.POLLIN };
        poll[1] = new() { fd = (int)_socket.Handle.DangerousGetHandle(), events = Libc.POLLIN };
        // SAFETY: two entries on this stack.
        _ = Libc.ppoll(poll, 2, null, null);
        return poll[0].revents == 0;
    }

    private void Refuse(DescriptorSocket connection, List<SafeFileHandle> descriptors, Exception why)
    {
        Log.HandoffRefused(_logger, why.Message);
        descriptors.ForEach(d => d.Dispose());
        try
        {
            connection.Send(new HandoffAnswer(false, why.Message).Encode(), [], _options.Patience);
        }
        catch (HandoffException)
        {
            // It has gone, or does not listen: Firecracker does not.
        }

        connection.Dispose();
    }

    private HandoffSession Receive(DescriptorSocket connection, List<SafeFileHandle> descriptors)
    {
        Libc.UCred peer = connection.Peer();
        uint own = Libc.geteuid();
        if (peer.uid != own && peer.uid != 0 && !_options.AllowedUsers.Contains(peer.uid))
        {
            throw new HandoffException($"Process {peer.pid} of user {peer.uid} may not hand memory over to user {own}; name it in AllowedUsers if it should.");
        }

        byte[] bytes = ReceiveMessage(connection, descriptors, out bool firecracker);
        return firecracker
            ? HandoffSession.OfFirecracker(connection, bytes, descriptors, peer.pid, _options)
            : HandoffSession.OfPostcopy(connection, HandoffMessage.Decode(bytes), descriptors, peer.pid, _options);
    }

    private byte[] ReceiveMessage(DescriptorSocket connection, List<SafeFileHandle> descriptors, out bool firecracker)
    {
        long start = Stopwatch.GetTimestamp();
        byte[] bytes = new byte[HandoffMessage.MaxBytes];
        int have = 0;
        firecracker = false;
        while (true)
        {
            int wanted = Wanted(bytes.AsSpan(0, have), ref firecracker);
            if (wanted == have && have > 0)
            {
                return bytes.AsSpan(0, have).ToArray();
            }

            TimeSpan left = _options.Patience - Stopwatch.GetElapsedTime(start);
            int n = connection.Receive(bytes.AsSpan(have, wanted - have), descriptors, left > TimeSpan.Zero ? left : TimeSpan.Zero);
            if (n == 0)
            {
                throw new HandoffException($"The peer closed the connection after {have} bytes of its message.");
            }

            have += n;
        }
    }

    /// <summary>How many bytes the message has, as far as what is here can say; what is here when it is whole.</summary>
    private int Wanted(ReadOnlySpan<byte> have, ref bool firecracker)
    {
        if (have.Length == 0)
        {
            return HandoffMessage.HeaderBytes;
        }

        firecracker = have[0] is (byte)'[' or (byte)'{' or (byte)' ' or (byte)'\n';
        if (!(firecracker ? _options.AcceptFirecracker : _options.AcceptPostcopy))
        {
            throw new HandoffException(firecracker
                ? "The peer speaks as Firecracker does, which this handler does not accept."
                : "The peer does not speak as Firecracker does, and this handler accepts nothing else.");
        }

        if (firecracker)
        {
            return FirecrackerMessage.IsWhole(have) ? have.Length
                : have.Length < FirecrackerMessage.MaxBytes ? FirecrackerMessage.MaxBytes
                : throw new HandoffException($"Firecracker's handshake is longer than {FirecrackerMessage.MaxBytes} bytes.");
        }

        return have.Length < HandoffMessage.HeaderBytes ? HandoffMessage.HeaderBytes : HandoffMessage.LengthOf(have);
    }
}
