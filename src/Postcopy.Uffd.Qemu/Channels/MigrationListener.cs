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
    private const int Backlog = 4;

    private readonly Socket _socket;
    private readonly MigrationListenerOptions _options;
    private readonly string? _file;

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

    /// <summary>Waits for the next connection. One that fails its TLS handshake is closed, and the wait goes on.</summary>
    /// <param name="cancellationToken">Gives up the wait.</param>
    public async ValueTask<MigrationChannel> AcceptAsync(CancellationToken cancellationToken = default)
    {
        while (true)
        {
            Socket socket = await _socket.AcceptAsync(cancellationToken).ConfigureAwait(false);
            if (socket.ProtocolType == ProtocolType.Tcp)
            {
                socket.NoDelay = true;
            }

            if (_options.Tls is null)
            {
                return MigrationChannel.FromSocket(socket);
            }

            if (await SecureAsync(socket, cancellationToken).ConfigureAwait(false) is { } channel)
            {
                return channel;
            }
        }
    }

    /// <summary>Stops listening; connections that were accepted go on.</summary>
    public void Dispose()
    {
        _socket.Dispose();
        if (_file is not null)
        {
            File.Delete(_file);
        }
    }

    private async ValueTask<MigrationChannel?> SecureAsync(Socket socket, CancellationToken cancellationToken)
    {
        using CancellationTokenSource patience = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
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
            cancellationToken.ThrowIfCancellationRequested();
            return null;
        }
    }
}
