namespace Postcopy.Uffd.Qemu.Tests.Incoming;

/// <summary>Connections that are lost in part, silently, late, or on purpose.</summary>
public sealed class LossTests
{
    private const int Limit = 60_000;
    private const long Ram = 8 << 20;
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(20);
    private readonly TaskCompletionSource _running = new();
    private int _runs;

    [Theory(Timeout = Limit)]
    [InlineData(QemuPreemptMode.None)]
    [InlineData(QemuPreemptMode.AtSwitch)]
    public async Task MoreZeroPagesInOneBufferThanAWindowHolds(QemuPreemptMode preempt)
    {
        await using Migration migration = New("zero.ram", preempt, bandwidth: preempt == QemuPreemptMode.None ? 0 : 1 << 20);
        Task<CompletionReport> receiving = migration.Receive();
        (MigrationChannel main, _) = migration.ConnectOver();
        Relay? urgent = null;
        Task<QemuSourceState> sending = migration.Source.RunAsync(main, preempt == QemuPreemptMode.None ? null : () =>
        {
            (MigrationChannel channel, urgent) = migration.ConnectOver();
            urgent.Hold();
            return channel;
        });
        await _running.Task;
        if (preempt != QemuPreemptMode.None)
        {
            // 1500 pages of zeros, in one piece.
            migration.Destination.Prefetch(migration.Destination.Blocks.Blocks[0], new PageRange(0, 1500 * 4096));
            await Migration.Until(() => urgent!.FromSource > 1400 * 9);
            urgent!.Release();
            migration.Source.BackgroundBandwidth = 0;
        }

        _ = await receiving;
        Assert.Equal(QemuSourceState.Completed, await sending);
        Assert.Equal(Ram / 4096, migration.Incoming.Statistics.ZeroPages);
        Assert.Equal(0, migration.Destination.Blocks.MissingBytes);
    }

    [Fact(Timeout = Limit)]
    public async Task TheUrgentChannelAloneIsLostAndTheMigrationRecovers()
    {
        await using Migration migration = New("pc.ram", QemuPreemptMode.AtSwitch, bandwidth: 4 << 20);
        Task<CompletionReport> receiving = migration.Receive();
        (MigrationChannel main, _) = migration.ConnectOver();
        Task<QemuSourceState> sending = migration.Source.RunAsync(main, () => migration.ConnectOver(Cut.AfterBytes(10_000)).Ours);
        await _running.Task;
        Task<int>[] touching = migration.Touch(2);
        Assert.Equal(QemuSourceState.PostcopyPaused, await sending);
        await Recovered(migration, receiving, touching);
    }

    [Fact(Timeout = Limit)]
    public async Task AnUrgentChannelThatNeverSpokeCountsWhenItIsKnownToExist()
    {
        await using Migration migration = New("pc.ram", QemuPreemptMode.AtStart, bandwidth: 4 << 20, known: true);
        Task<CompletionReport> receiving = migration.Receive();
        Relay? urgent = null;
        Task<QemuSourceState> sending = migration.Source.RunAsync(migration.Connect(), () =>
        {
            (MigrationChannel channel, urgent) = migration.ConnectOver();
            return channel;
        });
        await _running.Task;
        urgent!.Break();
        Assert.Equal(QemuSourceState.PostcopyPaused, await sending);
        await Recovered(migration, receiving, migration.Touch(2));
    }

    [Fact(Timeout = Limit)]
    public async Task PagesLostAfterTheEndOfTheStreamAreReportedAtOnce()
    {
        await using Migration migration = New("pc.ram", QemuPreemptMode.AtSwitch, bandwidth: 1 << 20);
        Task<CompletionReport> receiving = migration.Receive();
        Relay? urgent = null;
        _ = migration.Source.RunAsync(migration.Connect(), () =>
        {
            (MigrationChannel channel, urgent) = migration.ConnectOver();
            return channel;
        });
        await _running.Task;
        RamBlock ram = migration.Destination.Blocks.Blocks[0];
        await migration.Destination.EnsurePresentAsync(ram, new PageRange(Ram / 2, 1));
        urgent!.Hold();
        migration.Destination.Prefetch(ram, new PageRange(Ram - (64 * 4096), 64 * 4096));
        migration.Source.BackgroundBandwidth = 0;
        await Migration.Until(() => migration.Incoming.Statistics.Phase == StreamPhase.End);
        urgent.Break();
        QemuIncomingException e = await Assert.ThrowsAsync<QemuIncomingException>(() => receiving);
        Assert.Contains("after the end of the stream, which cannot be resumed", e.Message, StringComparison.Ordinal);
        Assert.Matches(@"\d+ pages are missing", e.Message);
        Assert.False(e.SourceMayResume);
    }

    [Theory(Timeout = Limit)]
    [InlineData(QemuPreemptMode.None)]
    [InlineData(QemuPreemptMode.AtStart)]
    public async Task TheNextConnectionComesBeforeTheOldOneIsSeenDead(QemuPreemptMode preempt)
    {
        await using Migration migration = New("pc.ram", preempt, bandwidth: 4 << 20);
        Task<CompletionReport> receiving = migration.Receive();
        (MigrationChannel main, Relay relay) = migration.ConnectOver();
        Task<QemuSourceState> sending = migration.Source.RunAsync(main, preempt == QemuPreemptMode.None ? null : migration.Connect);
        await _running.Task;
        Task<int>[] touching = migration.Touch(2);
        await Migration.Until(() => migration.Destination.Blocks.MissingBytes < Ram * 3 / 4);
        // As 7.2 does it: the urgent channel is there before RESUME; here before the main one, and before the loss is seen.
        MigrationChannel? early = null;
        if (preempt != QemuPreemptMode.None)
        {
            await Migration.Until(() => migration.Incoming.Statistics.UrgentPages > 0);
            early = migration.Connect();
            await Migration.Until(() => migration.Incoming.OpenConnections == 3);
        }

        relay.StandStill();
        migration.Source.BreakConnection();
        Assert.Equal(QemuSourceState.PostcopyPaused, await sending);
        if (preempt == QemuPreemptMode.None)
        {
            Assert.Equal(PostcopyState.Running, migration.Destination.State);
        }

        sending = migration.Source.ResumeAsync(migration.Connect(), early is null ? null : () => early);
        Assert.All(await Task.WhenAll(touching), wrong => Assert.Equal(0, wrong));
        migration.Source.BackgroundBandwidth = 0;
        _ = await receiving;
        Assert.Equal(QemuSourceState.Completed, await sending);
        Assert.Equal(1, migration.Incoming.Statistics.LostConnections);
        Assert.Equal(0, migration.Destination.Placer.Statistics.AlreadyReceivedPages);
    }

    [Fact(Timeout = Limit)]
    public async Task ABreakRightAfterThePackageDoesNotHoldTheGuestBack()
    {
        TaskCompletionSource mayLoad = new();
        await using Migration migration = New("pc.ram", QemuPreemptMode.None, bandwidth: 4 << 20, load: mayLoad.Task);
        Task<CompletionReport> receiving = migration.Receive();
        (MigrationChannel main, _) = migration.ConnectOver(Cut.AfterPackage(0));
        Task<QemuSourceState> sending = migration.Source.RunAsync(main);
        await Migration.Until(() => migration.Destination.State == PostcopyState.Paused);
        Assert.Equal(QemuSourceState.PostcopyPaused, await sending);
        Assert.Equal(0, _runs);
        mayLoad.SetResult();
        await _running.Task;
        await Recovered(migration, receiving, migration.Touch(1));
        Assert.Equal(1, _runs);
    }

    [Fact(Timeout = Limit)]
    public async Task ABreakBeforeThePointOfNoReturnLeavesTheGuestToTheSource()
    {
        TaskCompletionSource mayLoad = new();
        await using Migration migration = New("pc.ram", QemuPreemptMode.None, bandwidth: 4 << 20, load: mayLoad.Task, pointOfNoReturn: true);
        Task<CompletionReport> receiving = migration.Receive();
        (MigrationChannel main, _) = migration.ConnectOver(Cut.AfterPackage(9));
        Task<QemuSourceState> sending = migration.Source.RunAsync(main);
        QemuIncomingException e = await Assert.ThrowsAsync<QemuIncomingException>(() => WithLoad(receiving, migration, mayLoad));
        Assert.True(e.SourceMayResume);
        Assert.Contains("after the package, before the point of no return", e.Message, StringComparison.Ordinal);
        Assert.Equal(QemuSourceState.Failed, await sending);
        Assert.Equal(0, _runs);
        Assert.NotEqual(PostcopyState.Running, migration.Destination.State);
    }

    [Fact(Timeout = Limit)]
    public async Task TheHostPausesAndTheSourceResumes()
    {
        await using Migration migration = New("pc.ram", QemuPreemptMode.None, bandwidth: 4 << 20);
        _ = Assert.Throws<InvalidOperationException>(() => migration.Incoming.Pause("too early"));
        Task<CompletionReport> receiving = migration.Receive();
        Task<QemuSourceState> sending = migration.Send();
        await _running.Task;
        migration.Incoming.Pause("the network is changed");
        Assert.Equal(QemuSourceState.PostcopyPaused, await sending);
        await Migration.Until(() => migration.Destination.State == PostcopyState.Paused);
        migration.Incoming.Pause("it is paused already");
        await Recovered(migration, receiving, migration.Touch(1));
        _ = Assert.Throws<InvalidOperationException>(() => migration.Incoming.Pause("too late"));
    }

    [Theory(Timeout = Limit)]
    [InlineData(false)]
    [InlineData(true)]
    public async Task AConnectionThatStandsStillIsLost(bool inHandshake)
    {
        await using Migration migration = New("pc.ram", QemuPreemptMode.None, bandwidth: 4 << 20, stall: TimeSpan.FromSeconds(0.5));
        Task<CompletionReport> receiving = migration.Receive();
        (MigrationChannel main, Relay relay) = migration.ConnectOver();
        Task<QemuSourceState> sending = migration.Source.RunAsync(main);
        await _running.Task;
        if (inHandshake)
        {
            relay.Break();
            Assert.Equal(QemuSourceState.PostcopyPaused, await sending);
            (main, relay) = migration.ConnectOver();
            relay.Hold();
            sending = migration.Source.ResumeAsync(main);
            await Migration.Until(() => relay.FromSource > 0);
            relay.Release();
        }

        relay.StandStill();
        await Migration.Until(() => migration.Incoming.Statistics.LostConnections == 1);
        await Migration.Until(() => migration.Destination.State == PostcopyState.Paused);
        migration.Source.BreakConnection();
        Assert.Equal(QemuSourceState.PostcopyPaused, await sending);
        await Recovered(migration, receiving, migration.Touch(1));
    }

    /// <summary>The source thinks that these pages are sent, and the main channel goes on: no other way to notice.</summary>
    [Theory(Timeout = Limit)]
    [InlineData(false)]
    [InlineData(true)]
    public async Task AnUrgentChannelThatStandsStillIsLostWhileTheMainOneFlows(bool fromTheStart)
    {
        await using Migration migration = New("pc.ram", QemuPreemptMode.AtSwitch, bandwidth: 256 << 10, known: fromTheStart, stall: TimeSpan.FromSeconds(1));
        Task<CompletionReport> receiving = migration.Receive();
        Relay? urgent = null;
        Task<QemuSourceState> sending = migration.Source.RunAsync(migration.Connect(), () =>
        {
            (MigrationChannel channel, urgent) = migration.ConnectOver();
            return channel;
        });
        await _running.Task;
        RamBlock ram = migration.Destination.Blocks.Blocks[0];
        if (!fromTheStart)
        {
            await migration.Destination.EnsurePresentAsync(ram, new PageRange(Ram / 2, 1));
        }

        urgent!.StandStill();
        Task<int>[] touching = migration.Touch(2);
        await Migration.Until(() => migration.Incoming.Statistics.LostConnections == 1);
        await Migration.Until(() => migration.Destination.State == PostcopyState.Paused);
        Assert.True(migration.Destination.Blocks.MissingBytes > 0);
        migration.Source.BreakConnection();
        Assert.Equal(QemuSourceState.PostcopyPaused, await sending);
        await Recovered(migration, receiving, touching);
    }

    [Fact(Timeout = Limit)]
    public async Task ASilentUrgentChannelIsNoStallWhileNothingIsAskedFor()
    {
        await using Migration migration = New("pc.ram", QemuPreemptMode.AtStart, bandwidth: 4 << 20, known: true, stall: TimeSpan.FromSeconds(0.4));
        Task<CompletionReport> receiving = migration.Receive();
        Task<QemuSourceState> sending = migration.Send();
        _ = await receiving;
        Assert.Equal(QemuSourceState.Completed, await sending);
        Assert.Equal(0, migration.Incoming.Statistics.LostConnections);
    }

    [Fact(Timeout = Limit)]
    public async Task NobodyComesBack()
    {
        await using Migration migration = New("pc.ram", QemuPreemptMode.None, bandwidth: 1 << 20, recover: TimeSpan.FromSeconds(0.3));
        Task<CompletionReport> receiving = migration.Receive();
        _ = migration.Send();
        await _running.Task;
        migration.Source.BreakConnection();
        QemuIncomingException e = await Assert.ThrowsAsync<QemuIncomingException>(() => receiving);
        Assert.Matches(@"No new connection came within 0.3 s after one was lost .*\d+ pages are missing, the first at", e.Message);
        Assert.False(e.SourceMayResume);
    }

    private static async Task<CompletionReport> WithLoad(Task<CompletionReport> receiving, Migration migration, TaskCompletionSource mayLoad)
    {
        await Migration.Until(() => migration.Incoming.Statistics.Phase == StreamPhase.Running && migration.Source.State == QemuSourceState.Failed);
        mayLoad.SetResult();
        return await receiving;
    }

    private static async Task Recovered(Migration migration, Task<CompletionReport> receiving, Task<int>[] touching)
    {
        await Migration.Until(() => migration.Destination.State == PostcopyState.Paused);
        Task<QemuSourceState> sending = migration.Resend();
        await Migration.Until(() => migration.Destination.State is PostcopyState.Running or PostcopyState.End);
        migration.Source.BackgroundBandwidth = 0;
        Assert.All(await Task.WhenAll(touching), wrong => Assert.Equal(0, wrong));
        _ = await receiving;
        Assert.Equal(QemuSourceState.Completed, await sending);
        Assert.Equal(0, migration.Destination.Placer.Statistics.AlreadyReceivedPages);
        PatternMemory.AssertRight(migration.Destination.Blocks.Blocks[0]);
    }

    private Migration New(
        string block, QemuPreemptMode preempt, long bandwidth, bool known = false, Task? load = null, bool pointOfNoReturn = false,
        TimeSpan? stall = null, TimeSpan? recover = null) => new(
        new PatternMemory(new SourceRamBlock(block, Ram)),
        new QemuSourceOptions { Preempt = preempt, BackgroundBandwidth = bandwidth, UsePointOfNoReturn = pointOfNoReturn },
        new QemuIncomingOptions
        {
            OnPackage = async (_, _) => await (load ?? Task.CompletedTask),
            OnRunning = () =>
            {
                _ = Interlocked.Increment(ref _runs);
                _ = _running.TrySetResult();
            },
            RecoverTimeout = recover ?? s_patience,
            StallTimeout = stall ?? s_patience,
            Preempt = known,
        });
}
