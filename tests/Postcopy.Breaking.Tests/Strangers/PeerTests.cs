using System.Collections.Concurrent;
using System.Net.Sockets;
using Postcopy.Uffd;
using Postcopy.Uffd.Qemu;
using Postcopy.Uffd.Qemu.Tests;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Breaking.Tests;

/// <summary>Who may connect over a Unix socket: the file's mode and the peer's user, as the kernel knows it.</summary>
public sealed class PeerTests
{
    private const int Limit = 180_000;
    private const uint Nobody = 65534;

    [Theory(Timeout = Limit)]
    [InlineData("mode")]
    [InlineData("user")]
    [InlineData("allowed")]
    public async Task AnotherUserIsKeptOutByTheModeThenByItsNumber(string by) => await Task.Run(async () =>
    {
        Requires.Userfaultfd();
        Requires.Root("Another user's process");
        DirectoryInfo folder = OpenFolder();
        string path = Path.Combine(folder.FullName, "s");
        ConcurrentQueue<string> refused = [];
        using MigrationListener listener = MigrationListener.Bind(new UnixDomainSocketEndPoint(path), new MigrationListenerOptions
        {
            SocketMode = (UnixFileMode)(by == "mode" ? 0b110_000_000 : 0b110_110_110),
            AllowedUsers = by == "allowed" ? [Nobody] : [],
            OnRefused = refused.Enqueue,
        });
        await using Receiver receiver = new(listener.AcceptAsync, new QemuIncomingOptions());
        using ChildProcess stranger = ChildProcess.Start(ConnectAsNobody, path);
        Assert.Equal(by switch { "mode" => "AccessDenied", "user" => "closed", _ => "accepted" }, stranger.ReadLine());
        if (by == "user")
        {
            string why = Assert.Single(refused);
            Assert.Contains($"Process {stranger.Id} of user {Nobody} may not connect to user 0's {path}; name it in AllowedUsers", why, StringComparison.Ordinal);
        }
        else
        {
            Assert.Empty(refused);
        }

        // The source is let in all the same.
        await using QemuSource source = new(new TestPages(new SourceRamBlock("pc.ram", 1 << 20)));
        Assert.Equal(QemuSourceState.Completed, await source.RunAsync(ReceivingChild.Connect(path)).WaitAsync(Receiver.Budget));
        await receiver.FinishAsync();
        folder.Delete(recursive: true);
    });

    [Fact(Timeout = Limit)]
    public async Task ASecondSourceInMidMigrationIsRefusedAndNothingIsLost() => await Task.Run(() =>
    {
        Requires.Userfaultfd();
        Assert.Equal("Failed Failed Failed, then whole", ChildProcess.Run(SendTwice).Trim());
    });

    private static void SendTwice(ChildScenario child) => child.Say(SendTwiceAsync().GetAwaiter().GetResult());

    private static async Task<string> SendTwiceAsync()
    {
        using Connections connections = new();
        await using Receiver receiver = new(connections.AcceptAsync, new QemuIncomingOptions { RecoverTimeout = Receiver.Budget }, vcpus: 2);
        TestPages memory = new(new SourceRamBlock("pc.ram", 8 << 20), new SourceRamBlock("pc.idle", 8 << 20));
        await using QemuSource first = new(memory, new QemuSourceOptions { BackgroundBandwidth = 1 << 20 });
        Task<QemuSourceState> sending = first.RunAsync(connections.Connect());
        await receiver.Running.WaitAsync(Receiver.Budget);
        List<QemuSourceState> ends = [];
        foreach (SourceRamBlock block in (SourceRamBlock[])[new("pc.ram", 8 << 20), new("pc.ram", 16 << 20), new("other", 4096)])
        {
            await using QemuSource second = new(new TestPages(block));
            ends.Add(await second.RunAsync(connections.Connect()).WaitAsync(Receiver.Budget));
        }

        first.BackgroundBandwidth = 0;
        await receiver.FinishAsync();
        return await sending.WaitAsync(Receiver.Budget) == QemuSourceState.Completed && receiver.Incoming.Statistics.LostConnections == 0
            ? $"{string.Join(' ', ends)}, then whole"
            : receiver.ToString();
    }

    /// <summary>Blocks beyond all limits, at the beginning: refused by name before memory is set aside.</summary>
    [Theory(Timeout = Limit)]
    [InlineData(1L << 50)]
    [InlineData(long.MaxValue - 4095)]
    public async Task ASourceThatClaimsAbsurdSizesIsRefused(long length) => await Task.Run(async () =>
    {
        Requires.Userfaultfd();
        using Connections connections = new();
        await using Receiver receiver = new(connections.AcceptAsync, new QemuIncomingOptions());
        using MigrationChannel source = connections.Connect();
        source.Send(new WireBytes().Begin(("pc.ram", 4096, null), ("huge", (ulong)length, null)).ToArray());
        QemuIncomingException e = await Assert.ThrowsAsync<QemuIncomingException>(() => receiver.Receiving.WaitAsync(Receiver.Budget));
        Assert.True(e.SourceMayResume);
        Assert.Contains($"{ProtocolLimits.Default.MaxTotalRam}", e.Message, StringComparison.Ordinal);
        Assert.Empty(receiver.Destination.Blocks.Blocks);
    });

    private static DirectoryInfo OpenFolder()
    {
        DirectoryInfo folder = Directory.CreateTempSubdirectory("postcopy-peer-");
        File.SetUnixFileMode(folder.FullName, (UnixFileMode)0b111_101_101);
        return folder;
    }

    private static void ConnectAsNobody(ChildScenario child)
    {
        // Loaded as root: afterwards this user may not read the program's folder.
        using Socket socket = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        UnixDomainSocketEndPoint address = new(child.Arguments[0]);
        byte[] one = new byte[1];
        socket.ReceiveTimeout = 3000;
        _ = Assert.Throws<SocketException>(() => socket.Receive(one));
        TestLibc.BecomeNobody();
        try
        {
            socket.Connect(address);
            child.Say(socket.Receive(one) == 0 ? "closed" : "answered");
        }
        catch (SocketException e)
        {
            child.Say(e.SocketErrorCode == SocketError.TimedOut ? "accepted" : $"{e.SocketErrorCode}");
        }
    }
}
