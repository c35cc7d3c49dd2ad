using System.Net;
using System.Net.Sockets;

namespace Postcopy.Uffd.Qemu.Tests.Incoming;

/// <summary>More strangers than there is room for, around an urgent channel that has not said anything yet.</summary>
public sealed class CrowdTests
{
    private const int Limit = 60_000;
    private const int Crowd = 60;
    private const long Ram = 4 << 20;
    private const string Source = "127.0.0.1";
    private readonly TaskCompletionSource _running = new();
    private readonly List<Socket> _strangers = [];

    [Theory(Timeout = Limit)]
    [InlineData("127.0.0.2", Crowd, Crowd)]
    [InlineData(Source, 0, Crowd)]
    public async Task TheSilentUrgentChannelStays(string from, int before, int after)
    {
        await using Migration migration = New();
        Task<CompletionReport> receiving = migration.Receive();
        Task<QemuSourceState> sending = migration.Source.RunAsync(Connect(migration, Source), () =>
        {
            Come(migration, from, before);
            return Connect(migration, Source);
        });
        await _running.Task;
        Come(migration, from, after);
        await Migration.Until(() => migration.Incoming.OpenConnections <= 17);
        await AsksAndCompletes(migration, receiving, sending);
        _strangers.ForEach(s => s.Dispose());
    }

    /// <summary>It has spoken: from now on the oldest silent one goes, wherever it comes from.</summary>
    [Fact(Timeout = Limit)]
    public async Task OneThatHasSpokenStays()
    {
        await using Migration migration = New();
        Task<CompletionReport> receiving = migration.Receive();
        Task<QemuSourceState> sending = migration.Source.RunAsync(Connect(migration, Source), () => Connect(migration, Source));
        await _running.Task;
        await migration.Destination.EnsurePresentAsync(migration.Destination.Blocks.Blocks[0], new PageRange(Ram / 2, 1));
        Come(migration, Source, Crowd);
        await AsksAndCompletes(migration, receiving, sending);
        _strangers.ForEach(s => s.Dispose());
    }

    private static async Task AsksAndCompletes(Migration migration, Task<CompletionReport> receiving, Task<QemuSourceState> sending)
    {
        Assert.All(await Task.WhenAll(migration.Touch(2)), wrong => Assert.Equal(0, wrong));
        migration.Source.BackgroundBandwidth = 0;
        _ = await receiving;
        Assert.Equal(QemuSourceState.Completed, await sending);
        Assert.True(migration.Incoming.Statistics.UrgentPages > 10);
        Assert.Equal(0, migration.Incoming.Statistics.LostConnections);
    }

    private void Come(Migration migration, string from, int count)
    {
        for (int i = 0; i < count; i++)
        {
            int open = migration.Incoming.OpenConnections;
            _strangers.Add(Pair(migration, from));
            Assert.True(SpinWait.SpinUntil(() => migration.Incoming.OpenConnections != open || open > 15, TimeSpan.FromSeconds(20)));
        }
    }

    private static MigrationChannel Connect(Migration migration, string from) => MigrationChannel.FromSocket(Pair(migration, from));

    /// <summary>A connection from that address, accepted by the destination.</summary>
    private static Socket Pair(Migration migration, string from)
    {
        using Socket listener = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        listener.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        listener.Listen(1);
        Socket near = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp) { NoDelay = true };
        near.Bind(new IPEndPoint(IPAddress.Parse(from), 0));
        near.Connect(listener.LocalEndPoint!);
        migration.Offer(MigrationChannel.FromSocket(listener.Accept()));
        return near;
    }

    private Migration New() => new(
        new PatternMemory(new SourceRamBlock("pc.ram", Ram)),
        new QemuSourceOptions { Preempt = QemuPreemptMode.AtSwitch, BackgroundBandwidth = 256 << 10 },
        new QemuIncomingOptions { OnRunning = () => _running.TrySetResult(), RecoverTimeout = TimeSpan.FromSeconds(20) });
}
