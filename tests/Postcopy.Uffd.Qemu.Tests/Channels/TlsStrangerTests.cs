using System.Net;
using System.Net.Security;
using System.Net.Sockets;
using System.Security.Cryptography.X509Certificates;
using Postcopy.Uffd.Qemu.Tests.Live;

namespace Postcopy.Uffd.Qemu.Tests.Channels;

public sealed class TlsStrangerTests
{
    /// <summary>The handshake's own time-out would be 10 minutes: nobody waits for it.</summary>
    [Theory(Timeout = 60_000)]
    [InlineData(10, true)]
    [InlineData(64, false)]
    [InlineData(200, false)]
    public async Task SilentAndGarbledStrangersKeepTheSourceOutOfNothing(int count, bool garbled)
    {
        string folder = Directory.CreateTempSubdirectory("postcopy-test-").FullName;
        using MigrationListener listener = MigrationListener.Bind(
            new IPEndPoint(IPAddress.Loopback, 0), new MigrationListenerOptions { Tls = Certificates.Write(folder), HandshakeTimeout = TimeSpan.FromMinutes(10) });
        List<Socket> strangers = [];
        Task<MigrationChannel> accepting = listener.AcceptAsync(TestContext.Current.CancellationToken).AsTask();
        for (int i = 0; i < count; i++)
        {
            Socket stranger = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
            stranger.Bind(new IPEndPoint(IPAddress.Parse("127.0.0.2"), 0));
            stranger.Connect(listener.LocalEndPoint);
            strangers.Add(stranger);
            if (garbled && i % 2 == 0)
            {
                stranger.Send("no TLS at all, and nothing that could be taken for it"u8);
            }
        }

        using Socket socket = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        socket.Connect(listener.LocalEndPoint);
        using X509Certificate2 pem = X509Certificate2.CreateFromPemFile(Path.Combine(folder, "client-cert.pem"), Path.Combine(folder, "client-key.pem"));
        await using SslStream source = new(new NetworkStream(socket), false, (_, _, _, _) => true);
        await source.AuthenticateAsClientAsync(
            new SslClientAuthenticationOptions { TargetHost = "127.0.0.1", ClientCertificates = [pem] }, TestContext.Current.CancellationToken);
        using MigrationChannel channel = await accepting;
        await source.WriteAsync("QEVM"u8.ToArray(), TestContext.Current.CancellationToken);
        byte[] found = new byte[16];
        Assert.Equal(4, channel.Receive(found));
        strangers.ForEach(s => s.Dispose());
        Directory.Delete(folder, recursive: true);
    }
}
