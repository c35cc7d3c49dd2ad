namespace Postcopy.Uffd.Qemu.Tests.Incoming;

/// <summary>Where a break falls: after the switch our own source recovers from each, twice in the same place and once more.</summary>
public sealed class BreakPlacementTests
{
    private const int Limit = 15_000;
    private const long Ram = 4 << 20;
    private const int RecordHead = 9 + 5;

    public static TheoryData<string, QemuPreemptMode> Places()
    {
        TheoryData<string, QemuPreemptMode> data = [];
        foreach (QemuPreemptMode preempt in Enum.GetValues<QemuPreemptMode>())
        {
            foreach (string place in (string[])["right after the package", "torn header", "torn page", "after RECV_BITMAP", "inside a bitmap", "after RESUME_ACK", "near the end"])
            {
                data.Add(place, preempt);
            }
        }

        return data;
    }

    [Theory(Timeout = Limit)]
    [MemberData(nameof(Places))]
    public async Task IsRecovered(string place, QemuPreemptMode preempt)
    {
        TaskCompletionSource running = new();
        await using Migration migration = new(
            new PatternMemory(new SourceRamBlock("pc.ram", Ram), new SourceRamBlock("pc.bios", 1 << 20)),
            new QemuSourceOptions { Preempt = preempt, BackgroundBandwidth = 8 << 20 },
            new QemuIncomingOptions { OnRunning = running.SetResult, RecoverTimeout = TimeSpan.FromSeconds(20), Preempt = preempt != QemuPreemptMode.None });
        Task<CompletionReport> receiving = migration.Receive();
        using CancellationTokenRegistration stuck = TestContext.Current.CancellationToken.Register(() => TestContext.Current.TestOutputHelper!.WriteLine(migration.ToString()));
        Cut? first = place switch
        {
            "right after the package" => Cut.AfterPackage(0),
            "torn header" => Cut.AfterPackage(RecordHead + 3),
            "torn page" => Cut.AfterPackage(RecordHead + 1000),
            _ => null,
        };
        (MigrationChannel main, Relay relay) = migration.ConnectOver(first);
        Task<QemuSourceState> sending = migration.Source.RunAsync(main, Urgent(migration, preempt));
        await running.Task;
        bool atEnd = place == "near the end";
        Task<int>[] touching = [];
        if (first is null)
        {
            await BreakWhen(migration, relay, atEnd ? 40 * 4096 : (Ram * 2 / 3));
        }

        Assert.Equal(QemuSourceState.PostcopyPaused, await sending);
        // Not before the first break: on a busy machine the touches would fetch everything before it comes.
        touching = atEnd ? [] : migration.Touch(2);
        for (int repeated = 0; repeated < 2; repeated++)
        {
            await Migration.Until(() => migration.Destination.State == PostcopyState.Paused);
            (main, relay) = place switch
            {
                "after RECV_BITMAP" => migration.ConnectOver(Cut.AfterRecvBitmap()),
                "inside a bitmap" => migration.ConnectOver(null, Cut.InsideBitmap()),
                "after RESUME_ACK" => migration.ConnectOver(null, Cut.AfterResumeAck()),
                _ => migration.ConnectOver(Cut.AfterBytes(60_001 + repeated)),
            };
            sending = migration.Source.ResumeAsync(main, Urgent(migration, preempt));
            Assert.Equal(QemuSourceState.PostcopyPaused, await sending);
        }

        await Migration.Until(() => migration.Destination.State == PostcopyState.Paused);
        sending = migration.Resend();
        touching = atEnd ? migration.Touch(2) : touching;
        Assert.All(await Task.WhenAll(touching), wrong => Assert.Equal(0, wrong));
        migration.Source.BackgroundBandwidth = 0;
        _ = await receiving;
        Assert.Equal(QemuSourceState.Completed, await sending);
        // A handshake can be cut so early that its successor takes over before the break is seen here.
        bool inHandshake = place is "after RECV_BITMAP" or "inside a bitmap";
        Assert.InRange(migration.Incoming.Statistics.LostConnections, inHandshake ? 1 : 3, 3);
        Assert.Equal(0, migration.Destination.Placer.Statistics.AlreadyReceivedPages);
        Assert.All(migration.Destination.Blocks.Blocks, PatternMemory.AssertRight);
    }

    [Fact(Timeout = Limit)]
    public async Task BeforeThePackageItIsTheSourcesGuest()
    {
        await using Migration migration = new(
            new PatternMemory(new SourceRamBlock("pc.ram", Ram)),
            new QemuSourceOptions { PrecopyPasses = 1 },
            new QemuIncomingOptions { RecoverTimeout = TimeSpan.FromSeconds(20) });
        Task<CompletionReport> receiving = migration.Receive();
        Task<QemuSourceState> sending = migration.Source.RunAsync(migration.ConnectOver(Cut.AfterBytes(1_000_000)).Ours);
        QemuIncomingException e = await Assert.ThrowsAsync<QemuIncomingException>(() => receiving);
        Assert.True(e.SourceMayResume);
        Assert.Contains("before the switch, in phase Advise", e.Message, StringComparison.Ordinal);
        Assert.Equal(QemuSourceState.Failed, await sending);
    }

    private static async Task BreakWhen(Migration migration, Relay relay, long missing)
    {
        await Migration.Until(() =>
        {
            if (missing < Ram / 2 && migration.Destination.Blocks.MissingBytes < Ram / 8)
            {
                migration.Source.BackgroundBandwidth = 256 << 10;
            }

            return migration.Destination.Blocks.MissingBytes <= missing;
        });
        relay.Break();
    }

    private static Func<MigrationChannel>? Urgent(Migration migration, QemuPreemptMode preempt) =>
        preempt == QemuPreemptMode.None ? null : migration.Connect;
}
