using System.Net.Sockets;

namespace Postcopy.Uffd.Qemu.Tests.Incoming;

/// <summary>Urgent channels at the seam between two links: the lost one's, accepted late, and the new one's, lost early.</summary>
public sealed class StaleChannelTests
{
    private const int Limit = 60_000;
    private const long Ram = 4 << 20;
    private readonly TaskCompletionSource _running = new();

    /// <summary>
    /// The lost link's urgent channel was still in the queue of the listener when the link was lost. Taken for the next link's,
    /// its end would pause a migration that nobody resumes any more.
    /// </summary>
    [Theory(Timeout = Limit)]
    [InlineData(false)]
    [InlineData(true)]
    public async Task TheLostLinksUrgentChannelIsAcceptedAfterTheLoss(bool withPage)
    {
        await using Migration migration = New();
        Task<CompletionReport> receiving = migration.Receive();
        Task<QemuSourceState> sending = migration.Send();
        await _running.Task;
        migration.Source.BreakConnection();
        Assert.Equal(QemuSourceState.PostcopyPaused, await sending);
        await Migration.Until(() => migration.Destination.State == PostcopyState.Paused && migration.Incoming.OpenConnections == 0);

        (Socket source, Socket here) = migration.Pair();
        source.Dispose();
        using LateStream late = new(withPage ? [0, 0, 0, 0, 0, 0, 0, 2] : []);
        migration.Offer(MigrationChannel.FromStream(late, here));
        await Migration.Until(() => migration.Incoming.OpenConnections == 1);
        sending = migration.Resend();
        await Migration.Until(() => migration.Destination.State == PostcopyState.Running);
        late.Arrive();
        await Migration.Until(() => late.Closed);
        migration.Source.BackgroundBandwidth = 0;
        _ = await receiving;
        Assert.Equal(QemuSourceState.Completed, await sending);
        Assert.Equal(1, migration.Incoming.Statistics.LostConnections);
        Assert.Equal(0, migration.Incoming.Statistics.UrgentPages);
        PatternMemory.AssertRight(migration.Destination.Blocks.Blocks[0]);
    }

    /// <summary>The source does not know: the first page that it sends there would be lost, and the guest would wait for it.</summary>
    [Fact(Timeout = Limit)]
    public async Task TheNewUrgentChannelIsLostBeforeTheHandshakeIsOver()
    {
        await using Migration migration = New();
        Task<CompletionReport> receiving = migration.Receive();
        Task<QemuSourceState> sending = migration.Send();
        await _running.Task;
        migration.Source.BreakConnection();
        Assert.Equal(QemuSourceState.PostcopyPaused, await sending);
        await Migration.Until(() => migration.Incoming.OpenConnections == 0);
        sending = migration.Source.ResumeAsync(migration.Connect(), () =>
        {
            (MigrationChannel channel, Relay relay) = migration.ConnectOver();
            Assert.True(SpinWait.SpinUntil(() => migration.Incoming.OpenConnections == 2, Limit));
            relay.Break();
            Assert.True(SpinWait.SpinUntil(() => migration.Incoming.OpenConnections == 1, Limit));
            return channel;
        });
        Assert.Equal(QemuSourceState.PostcopyPaused, await sending);
        await Migration.Until(() => migration.Destination.State == PostcopyState.Paused && migration.Incoming.OpenConnections == 0);
        sending = migration.Resend();
        migration.Source.BackgroundBandwidth = 0;
        _ = await receiving;
        Assert.Equal(QemuSourceState.Completed, await sending);
        Assert.Equal(2, migration.Incoming.Statistics.LostConnections);
        PatternMemory.AssertRight(migration.Destination.Blocks.Blocks[0]);
    }

    private Migration New() => new(
        new PatternMemory(new SourceRamBlock("pc.ram", Ram)),
        new QemuSourceOptions { Preempt = QemuPreemptMode.AtSwitch, BackgroundBandwidth = 256 << 10 },
        new QemuIncomingOptions { OnRunning = _running.SetResult, RecoverTimeout = TimeSpan.FromSeconds(20), Preempt = true });

    /// <summary>What is in it can be read later than it could be: the thread that reads it was slow.</summary>
    private sealed class LateStream(byte[] content) : MemoryStream(content, writable: false)
    {
        private readonly ManualResetEventSlim _arrived = new();

        internal bool Closed { get; private set; }

        internal void Arrive() => _arrived.Set();

        public override int Read(Span<byte> buffer)
        {
            _arrived.Wait();
            return base.Read(buffer);
        }

        protected override void Dispose(bool disposing)
        {
            Closed = true;
            _arrived.Set();
        }
    }
}
