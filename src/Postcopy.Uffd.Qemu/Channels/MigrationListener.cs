using System.Net;
using System.Net.Security;
using System.Net.Sockets;
using System.Security.Authentication;
using Postcopy.Uffd.Qemu.Interop;

namespace Postcopy.Uffd.Qemu;

/// <summary>
/// Listens on TCP or a Unix socket for a source, over TLS if wanted. The socket's file is removed on disposal.
/// </summary>
public sealed class MigrationListener : IDisposable
{
    // A full one drops the next SYN, which comes again a second later.
    private const int Backlog = 512;
    private const int MostHandshakes = 64;
    private static readonly TimeSpan s_shortage = TimeSpan.FromMilliseconds(100);
    private static readonly TimeSpan s_longestShortage = TimeSpan.FromSeconds(30);

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

        // Its assembly is loaded with the first one, which could not be done any more when no descriptor is left.
        _ = new SocketException((int)SocketError.TooManyOpenSockets).Message;
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
    /// <exception cref="IOException">A connection waits, and for 30 s this process had no descriptor for it.</exception>
    public async ValueTask<MigrationChannel> AcceptAsync(CancellationToken cancellationToken = default)
    {
        if (_options.Tls is null)
        {
            return MigrationChannel.FromSocket(await AcceptAllowedAsync(cancellationToken).ConfigureAwait(false));
        }

        while (true)
        {
            // Kept over calls: a cancelled wait must not lose the connection that comes next.
            _accepting ??= AcceptAllowedAsync(_closed.Token);

            Task done = await Task.WhenAny([_accepting, .. _handshakes.Select(h => h.Result)]).WaitAsync(cancellationToken).ConfigureAwait(false);
            if (done == _accepting)
            {
                Task<Socket> accepted = _accepting;
                _accepting = null;
                MakeRoom();
                _handshakes.Add(new Handshake(this, await accepted.ConfigureAwait(false)));
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
        if (File.Exists(_file))
        {
            File.Delete(_file);
        }
    }

    /// <summary>The next connection of somebody who may connect; the others are closed.</summary>
    private async Task<Socket> AcceptAllowedAsync(CancellationToken cancellationToken)
    {
        while (true)
        {
            Socket socket = await AcceptAnyAsync(cancellationToken).ConfigureAwait(false);
            if (WhyNot(socket) is not { } refusal)
            {
                return Prepared(socket);
            }

            socket.Dispose();
            _options.OnRefused?.Invoke(refusal);
        }
    }

    /// <summary>
    /// A connection waits in the kernel's queue while this process has no descriptor for it: a recovery must not fail for a
    /// shortage that passes.
    /// </summary>
    private async Task<Socket> AcceptAnyAsync(CancellationToken cancellationToken)
    {
        for (int tries = 1; ; tries++)
        {
            try
            {
                return await _socket.AcceptAsync(cancellationToken).ConfigureAwait(false);
            }
            catch (SocketException e) when (e.SocketErrorCode == SocketError.TooManyOpenSockets)
            {
                if (tries * s_shortage >= s_longestShortage)
                {
                    throw new IOException(
                        $"A connection waits, and there was no descriptor for it in {s_longestShortage.TotalSeconds:0} s: raise RLIMIT_NOFILE (EMFILE) or fs.file-max (ENFILE).", e);
                }
            }

            await Task.Delay(s_shortage, cancellationToken).ConfigureAwait(false);
        }
    }

    /// <summary>Null when it may connect.</summary>
    private string? WhyNot(Socket socket)
    {
        if (socket.AddressFamily != AddressFamily.Unix)
        {
            return null;
        }

        if (!PeerCredentials.TryOf(socket.SafeHandle, out PeerCredentials peer))
        {
            return "A process that had gone again was not asked who it was.";
        }

        uint own = Libc.geteuid();
        return peer.User == own || peer.User == 0 || _options.AllowedUsers.Contains(peer.User)
            ? null
            : $"Process {peer.Process} of user {peer.User} may not connect to user {own}'s {_file}; name it in AllowedUsers if it should.";
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
                options.OnRefused?.Invoke($"The TLS handshake of {Peer} failed: {(e is OperationCanceledException ? "it was not over in time" : e.Message)}");
                return null;
            }
        }
    }
}
