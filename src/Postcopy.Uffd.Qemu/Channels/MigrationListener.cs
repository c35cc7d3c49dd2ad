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
    // A full one drops the next SYN, which comes again a second later.
    private const int Backlog = 512;
    private const int MostHandshakes = 64;

    private readonly Socket _socket;
    private readonly MigrationListenerOptions _options;
    private readonly string? _file;
    private readonly CancellationTokenSource _closed = new();
    private readonly List<Handshake> _handshakes = [];
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
    /// and keeps nobody out: with 64 at once the next one takes the place of the oldest of the host that has most of them.
    /// One call at a time.
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

            Task done = await Task.WhenAny([_accepting, .. _handshakes.Select(h => h.Result)]).WaitAsync(cancellationToken).ConfigureAwait(false);
            if (done == _accepting)
            {
                Task<Socket> accepted = _accepting;
                _accepting = null;
                MakeRoom();
                _handshakes.Add(new Handshake(this, Prepared(await accepted.ConfigureAwait(false))));
                continue;
            }

            int index = _handshakes.FindIndex(h => h.Result == done);
            Task<MigrationChannel?> result = _handshakes[index].Result;
            _handshakes.RemoveAt(index);
            if (await result.ConfigureAwait(false) is { } channel)
            {
                return channel;
            }
        }
    }

    /// <summary>A real source is through its handshake in milliseconds: who has been at it for longest is none.</summary>
    private void MakeRoom()
    {
        List<Handshake> open = _handshakes.FindAll(h => !h.IsGivenUp && !h.Result.IsCompleted);
        if (open.Count >= MostHandshakes)
        {
            open.GroupBy(h => h.Peer).MaxBy(g => g.Count())!.First().GiveUp();
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

    /// <summary>One connection on its way through TLS.</summary>
    private sealed class Handshake
    {
        private readonly Socket _socket;

        internal Handshake(MigrationListener listener, Socket socket)
        {
            _socket = socket;
            Peer = MigrationChannel.AddressOf(socket);
            Result = SecureAsync(listener._options, listener._closed.Token);
        }

        internal IPAddress? Peer { get; }

        internal bool IsGivenUp { get; private set; }

        /// <summary>The channel; null when there will be none.</summary>
        internal Task<MigrationChannel?> Result { get; }

        internal void GiveUp()
        {
            IsGivenUp = true;
            _socket.Dispose();
        }

        private async Task<MigrationChannel?> SecureAsync(MigrationListenerOptions options, CancellationToken closed)
        {
            using CancellationTokenSource patience = CancellationTokenSource.CreateLinkedTokenSource(closed);
            patience.CancelAfter(options.HandshakeTimeout);
            SslStream tls = new(new NetworkStream(_socket, ownsSocket: true));
            try
            {
                await tls.AuthenticateAsServerAsync(options.Tls!, patience.Token).ConfigureAwait(false);
                return MigrationChannel.FromStream(tls, _socket);
            }
            catch (Exception e) when (e is AuthenticationException or IOException or OperationCanceledException or ObjectDisposedException)
            {
                await tls.DisposeAsync().ConfigureAwait(false);
                return null;
            }
        }
    }
}
