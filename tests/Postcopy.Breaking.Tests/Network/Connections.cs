using System.Net.Sockets;
using System.Threading.Channels;
using Postcopy.Uffd.Qemu;

namespace Postcopy.Breaking.Tests;

/// <summary>Connections inside a process: one end for a source, the other accepted by a destination.</summary>
internal sealed class Connections : IDisposable
{
    private readonly Channel<MigrationChannel> _accepted = Channel.CreateUnbounded<MigrationChannel>();
    private readonly string _folder = Directory.CreateTempSubdirectory("postcopy-break-").FullName;
    private readonly List<BadNetwork> _networks = [];

    internal ValueTask<MigrationChannel> AcceptAsync(CancellationToken cancellation) => _accepted.Reader.ReadAsync(cancellation);

    internal MigrationChannel Connect()
    {
        (Socket ours, Socket theirs) = Pair();
        Offer(theirs);
        return MigrationChannel.FromSocket(ours);
    }

    internal MigrationChannel ConnectOver(int seed, int bytesPerHarm, Damage damage, Func<bool> mayHarm)
    {
        (Socket ours, Socket near) = Pair();
        (Socket far, Socket theirs) = Pair();
        lock (_networks)
        {
            _networks.Add(new BadNetwork(near, far, seed, bytesPerHarm, damage, mayHarm));
        }

        Offer(theirs);
        return MigrationChannel.FromSocket(ours);
    }

    public void Dispose()
    {
        _networks.ForEach(n => n.Dispose());
        Directory.Delete(_folder, recursive: true);
    }

    private void Offer(Socket socket) => _ = _accepted.Writer.TryWrite(MigrationChannel.FromSocket(socket));

    private (Socket Ours, Socket Theirs) Pair()
    {
        string path = Path.Combine(_folder, Guid.NewGuid().ToString("N")[..8]);
        using Socket listener = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        listener.Bind(new UnixDomainSocketEndPoint(path));
        listener.Listen(1);
        Socket ours = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        ours.Connect(new UnixDomainSocketEndPoint(path));
        Socket theirs = listener.Accept();
        File.Delete(path);
        return (ours, theirs);
    }
}
