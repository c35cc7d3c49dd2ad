namespace Postcopy.Uffd.Qemu.Tests.Incoming;

public sealed class QemuIncomingTests
{
    private const int Limit = 60_000;
    private const long Ram = 16 << 20;

    [Theory(Timeout = Limit)]
    [InlineData(QemuPreemptMode.None, false)]
    [InlineData(QemuPreemptMode.AtStart, false)]
    [InlineData(QemuPreemptMode.AtSwitch, true)]
    public async Task AWholeGuestArrivesRightUnderTouches(QemuPreemptMode preempt, bool pointOfNoReturn)
    {
        TaskCompletionSource running = new();
        await using Migration migration = new(
            new PatternMemory(new SourceRamBlock("pc.ram", Ram), new SourceRamBlock("pc.rom", 64 << 10)),
            new QemuSourceOptions { Preempt = preempt, UsePointOfNoReturn = pointOfNoReturn, SendSwitchoverStart = pointOfNoReturn, BackgroundBandwidth = 20 << 20, PrecopyLimit = 1 << 20, PrecopyPasses = 1 },
            new QemuIncomingOptions { OnRunning = running.SetResult });
        Task<CompletionReport> receiving = migration.Receive();
        Task<QemuSourceState> sending = migration.Send();
        await running.Task;
        Assert.Equal(PostcopyState.Running, migration.Destination.State);
        Assert.All(await Task.WhenAll(migration.Touch(3)), wrong => Assert.Equal(0, wrong));
        CompletionReport report = await receiving;
        Assert.Equal(QemuSourceState.Completed, await sending);
        Assert.True(migration.Incoming.Statistics.SourceConfirmed);
        Assert.All(migration.Destination.Blocks.Blocks, PatternMemory.AssertRight);
        Assert.Equal(report.Faults.Requests, migration.Source.Statistics.Requests);
        Assert.True(preempt == QemuPreemptMode.None || migration.Incoming.Statistics.UrgentPages > 0);
    }

    [Theory(Timeout = Limit)]
    [InlineData(QemuPreemptMode.None)]
    [InlineData(QemuPreemptMode.AtStart)]
    [InlineData(QemuPreemptMode.AtSwitch)]
    public async Task BrokenConnectionsPauseAndTheNextOneGoesOn(QemuPreemptMode preempt)
    {
        const int breaks = 3;
        TaskCompletionSource running = new();
        await using Migration migration = new(
            new PatternMemory(new SourceRamBlock("pc.ram", Ram)),
            new QemuSourceOptions { Preempt = preempt, BackgroundBandwidth = 8 << 20 },
            new QemuIncomingOptions { OnRunning = running.SetResult, RecoverTimeout = TimeSpan.FromSeconds(20) });
        Task<CompletionReport> receiving = migration.Receive();
        Task<QemuSourceState> sending = migration.Send();
        await running.Task;
        Task<int>[] touching = migration.Touch(2);
        for (int i = 1; i <= breaks; i++)
        {
            long until = Ram * i / (breaks + 1);
            await Migration.Until(() => Ram - migration.Destination.Blocks.MissingBytes >= until);
            migration.Source.BreakConnection();
            Assert.Equal(QemuSourceState.PostcopyPaused, await sending);
            await Migration.Until(() => migration.Destination.State == PostcopyState.Paused);
            sending = migration.Resend();
        }

        Assert.All(await Task.WhenAll(touching), wrong => Assert.Equal(0, wrong));
        _ = await receiving;
        Assert.Equal(QemuSourceState.Completed, await sending);
        Assert.Equal(breaks, migration.Incoming.Statistics.LostConnections);
        Assert.Equal(0, migration.Destination.Placer.Statistics.AlreadyReceivedPages);
        PatternMemory.AssertRight(migration.Destination.Blocks.Blocks[0]);
    }

    [Fact(Timeout = Limit)]
    public async Task ARefusedDeviceStateLeavesTheGuestToTheSource()
    {
        await using Migration migration = new(
            new PatternMemory(new SourceRamBlock("pc.ram", Ram)),
            new QemuSourceOptions { UsePointOfNoReturn = true, BackgroundBandwidth = 1 << 20 },
            new QemuIncomingOptions { OnPackage = (_, _) => throw new NotSupportedException("this CPU cannot be taken") });
        Task<CompletionReport> receiving = migration.Receive();
        Task<QemuSourceState> sending = migration.Send();
        QemuIncomingException e = await Assert.ThrowsAsync<QemuIncomingException>(() => receiving);
        Assert.Contains("this CPU cannot be taken", e.Message, StringComparison.Ordinal);
        Assert.True(e.SourceMayResume);
        Assert.NotEqual(PostcopyState.Running, migration.Destination.State);
        Assert.Equal(QemuSourceState.Failed, await sending);
    }

    [Fact(Timeout = Limit)]
    public async Task DeviceStateMayWaitForGuestMemory()
    {
        await using Migration migration = new(
            new PatternMemory(new SourceRamBlock("pc.ram", Ram)),
            new QemuSourceOptions { BackgroundBandwidth = 4 << 20 },
            null);
        bool waited = false;
        await using QemuIncoming incoming = new(migration.Destination, new QemuIncomingOptions
        {
            OnPackage = async (_, token) =>
            {
                await migration.Destination.EnsurePresentAsync(migration.Destination.Blocks.Blocks[0], new PageRange(Ram / 2, 100_000), token);
                waited = true;
            },
        });
        (System.Net.Sockets.Socket ours, System.Net.Sockets.Socket theirs) = migration.Pair();
        Queue<MigrationChannel> channels = new([MigrationChannel.FromSocket(theirs)]);
        Task<CompletionReport> receiving = incoming.RunAsync(async token =>
        {
            if (!channels.TryDequeue(out MigrationChannel? channel))
            {
                await Task.Delay(Timeout.Infinite, token);
            }

            return channel!;
        });
        Assert.Equal(QemuSourceState.Completed, await migration.Source.RunAsync(MigrationChannel.FromSocket(ours)));
        _ = await receiving;
        Assert.True(waited);
    }

    [Fact(Timeout = Limit)]
    public async Task AStrangerInTheMiddleIsTurnedAwayAndNothingIsLost()
    {
        TaskCompletionSource running = new();
        await using Migration migration = new(
            new PatternMemory(new SourceRamBlock("pc.ram", Ram)),
            new QemuSourceOptions { BackgroundBandwidth = 8 << 20 },
            new QemuIncomingOptions { OnRunning = running.SetResult });
        Task<CompletionReport> receiving = migration.Receive();
        Task<QemuSourceState> sending = migration.Send();
        await running.Task;
        foreach (byte[] hello in (byte[][])[[0x51, 0x45, 0x56, 0x4d, 0, 0, 0, 3], [8, 0, 9, 0, 0], "GET / HTTP/1.1\r\n\r\n"u8.ToArray(), [0xff, 0xff, 0xff, 0xff, 0xff]])
        {
            using MigrationChannel stranger = migration.Connect();
            stranger.Send(hello);
            Assert.True(ClosedByPeer(stranger));
        }

        _ = await receiving;
        Assert.Equal(QemuSourceState.Completed, await sending);
        PatternMemory.AssertRight(migration.Destination.Blocks.Blocks[0]);
    }

    [Fact(Timeout = Limit)]
    public async Task WithoutARecoverTimeoutALostConnectionNamesWhatIsMissing()
    {
        TaskCompletionSource running = new();
        await using Migration migration = new(
            new PatternMemory(new SourceRamBlock("pc.ram", Ram)),
            new QemuSourceOptions { BackgroundBandwidth = 4 << 20 },
            new QemuIncomingOptions { OnRunning = running.SetResult });
        Task<CompletionReport> receiving = migration.Receive();
        _ = migration.Send();
        await running.Task;
        migration.Source.BreakConnection();
        QemuIncomingException e = await Assert.ThrowsAsync<QemuIncomingException>(() => receiving);
        Assert.Matches(@"\d+ pages are missing, the first at offset 0x[0-9a-f]+ of RAM block 'pc.ram'", e.Message);
        Assert.False(e.SourceMayResume);
    }

    private static bool ClosedByPeer(MigrationChannel channel)
    {
        try
        {
            return channel.Receive(new byte[1]) == 0;
        }
        catch (MigrationConnectionException)
        {
            return true;
        }
    }
}
