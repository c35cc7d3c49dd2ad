using System.Net;
using System.Net.Security;
using System.Net.Sockets;
using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;
using Postcopy.Uffd.Qemu.Tests.Source;

namespace Postcopy.Uffd.Qemu.Tests.Channels;

/// <summary>The same migration over each kind of connection.</summary>
public sealed class ChannelKindTests
{
    // tcp(7).
    private const int TcpLevel = 6;
    private const int QuickAckOption = 12;
    private static readonly TimeSpan s_limit = TimeSpan.FromSeconds(20);

    [Fact]
    public async Task UnixSocketCarriesAMigration()
    {
        string directory = Directory.CreateTempSubdirectory("postcopy-").FullName;
        try
        {
            UnixDomainSocketEndPoint address = new(Path.Combine(directory, "s"));
            using Socket listener = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
            listener.Bind(address);
            listener.Listen(1);
            Socket near = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
            near.Connect(address);
            await Migrate(MigrationChannel.FromSocket(near), MigrationChannel.FromSocket(listener.Accept()));
        }
        finally
        {
            Directory.Delete(directory, recursive: true);
        }
    }

    [Fact]
    public async Task TlsCarriesAMigration()
    {
        (SslStream near, SslStream far, Socket nearSocket, Socket farSocket) = await TlsPair();
        await Migrate(MigrationChannel.FromStream(near, nearSocket), MigrationChannel.FromStream(far, farSocket));
    }

    [Fact]
    public async Task TlsReaderEndsAtAbortAndAtTheStallTimeout()
    {
        (SslStream near, SslStream far, Socket nearSocket, Socket farSocket) = await TlsPair();
        using MigrationChannel other = MigrationChannel.FromStream(near, nearSocket);
        using MigrationChannel channel = MigrationChannel.FromStream(far, farSocket);
        channel.StallTimeout = TimeSpan.FromMilliseconds(50);
        byte[] buffer = new byte[10];
        MigrationConnectionException stalled = Assert.Throws<MigrationConnectionException>(() => channel.Receive(buffer));
        Assert.Equal(ConnectionLossReason.TimedOut, stalled.Reason);
        other.StallTimeout = Timeout.InfiniteTimeSpan;
        Task<MigrationConnectionException> waiting = Task.Factory.StartNew(
            () => Assert.Throws<MigrationConnectionException>(() => other.Receive(buffer)), TaskCreationOptions.LongRunning);
        other.Abort();
        MigrationConnectionException aborted = await waiting.WaitAsync(s_limit, TestContext.Current.CancellationToken);
        Assert.Equal(ConnectionLossReason.Aborted, aborted.Reason);
    }

    /// <summary>A delayed one would hold back the source's next small write, over TLS as without: 44 ms (qemu-wire.md 0.11).</summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task WhatWasReceivedIsAcknowledgedAtOnce(bool tls)
    {
        (SslStream? nearTls, SslStream? farTls, Socket nearSocket, Socket farSocket) = tls ? await TlsPair() : (null, null, null!, null!);
        (nearSocket, farSocket) = tls ? (nearSocket, farSocket) : Streams.SocketPair();
        using MigrationChannel near = tls ? MigrationChannel.FromStream(nearTls!, nearSocket) : MigrationChannel.FromSocket(nearSocket);
        using MigrationChannel far = tls ? MigrationChannel.FromStream(farTls!, farSocket) : MigrationChannel.FromSocket(farSocket);
        SetQuickAck(farSocket, 0);
        Assert.Equal(0, QuickAck(farSocket));
        near.Send([1]);
        Assert.Equal(1, far.Receive(new byte[1]));
        Assert.Equal(1, QuickAck(farSocket));
    }

    /// <summary>A peer that is blocked at a closed window sees a reset at once, and an orderly end a minute later.</summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void ConnectionThatWasGivenUpIsResetAndAFinishedOneIsEnded(bool givenUp)
    {
        using Socket listener = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        listener.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        listener.Listen(1);
        using Socket peer = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp) { ReceiveTimeout = (int)s_limit.TotalMilliseconds };
        peer.Connect(listener.LocalEndPoint!);
        MigrationChannel channel = MigrationChannel.FromSocket(listener.Accept());
        if (givenUp)
        {
            channel.Abort();
        }

        channel.Dispose();
        if (!givenUp)
        {
            Assert.Equal(0, peer.Receive(new byte[1]));
            return;
        }

        // The shutdown's end of stream may be read before the reset arrives; what is sent then meets the reset.
        SocketException reset = Assert.Throws<SocketException>(() =>
        {
            _ = peer.Receive(new byte[1]);
            _ = peer.Receive(new byte[1]);
            Assert.True(SpinWait.SpinUntil(() => peer.Poll(0, SelectMode.SelectError), s_limit));
            _ = peer.Send(new byte[1]);
        });
        Assert.Contains(reset.SocketErrorCode, new[] { SocketError.ConnectionReset, SocketError.Shutdown });
    }

    [Fact]
    public void PeerThatClosesWithAFullQueueIsNoticed()
    {
        (MigrationChannel near, MigrationChannel far) = Streams.ChannelPair();
        using (near)
        {
            byte[] data = new byte[1 << 20];
            int sent;
            do
            {
                sent = near.TrySend(data);
            }
            while (sent > 0);

            Assert.Equal(0, sent);
            far.Dispose();
            MigrationConnectionException e = Assert.Throws<MigrationConnectionException>(() => near.Send(data));
            Assert.Equal(ConnectionLossReason.TransportError, e.Reason);
            Assert.NotEqual(0, e.Errno);
            Assert.Equal(-1, near.TrySend(data));
        }
    }

    private static int QuickAck(Socket socket)
    {
        byte[] value = new byte[sizeof(int)];
        _ = socket.GetRawSocketOption(TcpLevel, QuickAckOption, value);
        return BitConverter.ToInt32(value);
    }

    private static void SetQuickAck(Socket socket, int value) => socket.SetRawSocketOption(TcpLevel, QuickAckOption, BitConverter.GetBytes(value));

    private static async Task Migrate(MigrationChannel near, MigrationChannel far)
    {
        SeededMemory memory = new(9, new SourceRamBlock("a", 500 * 4096), new SourceRamBlock("h", 1 << 21, 1 << 21));
        TestDestination destination = new();
        await using QemuSource source = new(memory, new QemuSourceOptions { PrecopyPasses = 1, PrecopyLimit = 100 * 4096 });
        using (far)
        {
            Task<QemuSourceState> run = source.RunAsync(near, null, TestContext.Current.CancellationToken);
            await Task.Factory.StartNew(() => destination.RunMain(far), TaskCreationOptions.LongRunning).WaitAsync(s_limit, TestContext.Current.CancellationToken);
            Assert.Equal(QemuSourceState.Completed, await run.WaitAsync(s_limit, TestContext.Current.CancellationToken));
        }

        destination.Verify(memory);
    }

    private static async Task<(SslStream Near, SslStream Far, Socket NearSocket, Socket FarSocket)> TlsPair()
    {
        using ECDsa key = ECDsa.Create(ECCurve.NamedCurves.nistP256);
        X509Certificate2 certificate = new CertificateRequest("CN=localhost", key, HashAlgorithmName.SHA256)
            .CreateSelfSigned(DateTimeOffset.UnixEpoch, DateTimeOffset.UnixEpoch.AddYears(200));
        (Socket nearSocket, Socket farSocket) = Streams.SocketPair();
        SslStream near = new(new NetworkStream(nearSocket), false, (_, _, _, _) => true);
        SslStream far = new(new NetworkStream(farSocket), false);
        await Task.WhenAll(near.AuthenticateAsClientAsync("localhost"), far.AuthenticateAsServerAsync(certificate)).WaitAsync(s_limit);
        return (near, far, nearSocket, farSocket);
    }
}
