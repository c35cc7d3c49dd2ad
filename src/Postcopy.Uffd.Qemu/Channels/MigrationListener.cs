using System.Net;
using System.Net.Security;
using System.Net.Sockets;
using System.Security.Authentication;

namespace Postcopy.Uffd.Qemu;

/// <summary>
/// Listens on TCP or a Unix socket for a source, over TLS if wanted. The socket's file is removed on disposal.
/// </summary>
public sealed class MigrationListener : IDisposable
{
    private const int Backlog = 16;
    private const int MostHandshakes = 64;

    private readonly Socket _socket;
    private readonly MigrationListenerOptions _options;
    private readonly string? _file;
    private readonly CancellationTokenSource _closed = new();
    private readonly List<Task<MigrationChannel?>> _handshakes = [];
    private Task<Socket>? _accepting;

    private MigrationListener(Socket socket, MigrationListenerOptions options, string? file)
    {
        _socket = socket;
        _options = options;
        _file = file;
    }

    /// <summary>Where it listens; with port 0 the port that the system chose.</summary>
    public EndPoint LocalEndPoint => _socket.LocalEndPoint!;

    /// <summary>Binds and listens.</summary>
    /// <param name="address">An <see cref="IPEndPoint"/> or a <see cref="UnixDomainSocketEndPoint"/>.</param>
    /// <param name="options">How to accept; null for the defaults.</param>
    /// <exception cref="SocketException">The address is in use, or not of this host.</exception>
    public static MigrationListener Bind(EndPoint address, MigrationListenerOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(address);
        options ??= new MigrationListenerOptions();
        bool unix = address.AddressFamily == AddressFamily.Unix;
        Socket socket = new(address.AddressFamily, SocketType.Stream, unix ? ProtocolType.Unspecified : ProtocolType.Tcp);
        try
        {
            if (!unix && options.ReceiveBufferBytes > 0)
            {
                // Before listen: accepted connections inherit it, and the window is agreed at the handshake.
                socket.ReceiveBufferSize = options.ReceiveBufferBytes;
            }

            socket.Bind(address);
            string? file = unix ? address.ToString() : null;
            if (file is not null && File.Exists(file))
            {
                File.SetUnixFileMode(file, options.SocketMode);
            }

            socket.Listen(Backlog);
            return new MigrationListener(socket, options, file);
        }
        catch
        {
            socket.Dispose();
            throw;
        }
    }

    /// <summary>
    /// Waits for the next connection. TLS handshakes go on beside each other: who says nothing in his, or fails it, is closed
    /// and keeps nobody out. One call at a time.
    /// </summary>
    /// <param name="cancellationToken">Gives up the wait.</param>
    public async ValueTask<MigrationChannel> AcceptAsync(CancellationToken cancellationToken = default)
    {
        if (_options.Tls is null)
        {
            return MigrationChannel.FromSocket(Prepared(await _socket.AcceptAsync(cancellationToken).ConfigureAwait(false)));
        }

        while (true)
        {
            // Kept over calls: a cancelled wait must not lose the connection that comes next.
            _accepting ??= _socket.AcceptAsync(_closed.Token).AsTask();

            // With that many at once the strangers wait in the backlog until one has ended.
            List<Task> first = [.. _handshakes];
            if (_handshakes.Count < MostHandshakes)
            {
                first.Add(_accepting);
            }

            Task done = await Task.WhenAny(first).WaitAsync(cancellationToken).ConfigureAwait(false);
            if (done == _accepting)
            {
                Task<Socket> accepted = _accepting;
                _accepting = null;
                _handshakes.Add(SecureAsync(Prepared(await accepted.ConfigureAwait(false))));
            }
            else if (done is Task<MigrationChannel?> handshake)
            {
                _ = _handshakes.Remove(handshake);
                if (await handshake.ConfigureAwait(false) is { } channel)
                {
                    return channel;
                }
            }
        }
    }

    /// <summary>Stops listening; connections that were accepted go on.</summary>
    public void Dispose()
    {
        _closed.Cancel();
        _socket.Dispose();
        if (_file is not null)
        {
            File.Delete(_file);
        }
    }

    private static Socket Prepared(Socket socket)
    {
        if (socket.ProtocolType == ProtocolType.Tcp)
        {
            socket.NoDelay = true;
        }

        return socket;
    }

    private async Task<MigrationChannel?> SecureAsync(Socket socket)
    {
        using CancellationTokenSource patience = CancellationTokenSource.CreateLinkedTokenSource(_closed.Token);
        patience.CancelAfter(_options.HandshakeTimeout);
        SslStream tls = new(new NetworkStream(socket, ownsSocket: true));
        try
        {
            await tls.AuthenticateAsServerAsync(_options.Tls!, patience.Token).ConfigureAwait(false);
            return MigrationChannel.FromStream(tls, socket);
        }
        catch (Exception e) when (e is AuthenticationException or IOException or OperationCanceledException)
        {
            await tls.DisposeAsync().ConfigureAwait(false);
            return null;
        }
    }
}
