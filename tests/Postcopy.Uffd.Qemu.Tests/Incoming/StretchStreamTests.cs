namespace Postcopy.Uffd.Qemu.Tests.Incoming;

/// <summary>A stream at full speed whose stretches become huge pages while threads touch them.</summary>
public sealed class StretchStreamTests
{
    private const int Limit = 60_000;
    private const long Ram = 64 << 20;
    private const int Stretches = (int)(Ram / PostcopyPlacer.StretchBytes);

    [Fact(Timeout = Limit)]
    public async Task AnUndisturbedStreamBecomesHugePages()
    {
        PlacementStatistics placed = await Run(threads: 0);

        TestContext.Current.SendDiagnosticMessage($"{placed}");
        Assert.Equal(Ram, placed.Bytes);
        Assert.Equal(placed.StretchesBegun, placed.StretchesMoved + placed.StretchesUnfinished + placed.StretchesRefused + placed.StretchesDisturbed + placed.StretchesSparse + placed.StretchesSplit);
        Assert.SkipUnless(placed.StretchesUnbacked == 0 && placed.StretchesBegun > 0, $"No huge pages to be had here ({placed}): Linux 6.8 with transparent_hugepage/enabled at 'madvise' or 'always', and unfragmented memory.");

        // A source that pauses for longer than the patience, on a busy machine, costs a stretch.
        Assert.InRange(placed.StretchesMoved, Stretches / 2, Stretches);
    }

    [Fact(Timeout = Limit)]
    public async Task TouchingThreadsFindEveryPageRight()
    {
        long moved = 0, disturbed = 0, fromStaging = 0;
        for (int round = 0; round < 6; round++)
        {
            PlacementStatistics placed = await Run(threads: 1 + (round % 3));
            moved += placed.StretchesMoved;
            disturbed += placed.StretchesDisturbed;
            fromStaging += placed.StagedPagesPlacedOnFault;
        }

        TestContext.Current.SendDiagnosticMessage($"{moved} moved, {disturbed} disturbed, {fromStaging} pages placed from staging by the fault thread");
        Assert.True(disturbed > 0);
    }

    [Theory(Timeout = Limit)]
    [InlineData(false)]
    [InlineData(true)]
    public async Task ThreadsThatTouchAtRandomWaitForWholeStretches(bool preempt)
    {
        PlacementStatistics placed = await Run(threads: 3, StretchPlacement.WholeOnFault, preempt);

        TestContext.Current.SendDiagnosticMessage($"{placed}");
        Assert.Equal(Ram, placed.Bytes);
        Assert.SkipUnless(placed.StretchesUnbacked == 0 && placed.StretchesBegun > 0, $"No huge pages to be had here ({placed}): Linux 6.8 with transparent_hugepage/enabled at 'madvise' or 'always', and unfragmented memory.");
        Assert.True(placed.StretchesMoved > 0, $"{placed}");
    }

    [Fact(Timeout = Limit)]
    public async Task WhatWasReceivedOfAStretchIsPlacedWhenTheSourceFallsSilent()
    {
        const int Pages = 1400;
        await using Migration migration = new(new PatternMemory(new SourceRamBlock("pc.ram", Ram)), null, new QemuIncomingOptions());
        Task<CompletionReport> receiving = migration.Receive();
        using MigrationChannel source = migration.Connect();
        WireBytes wire = new WireBytes().Begin(("pc.ram", Ram, null)).Discard("pc.ram", (0, Ram)).Package().Part().NamedPage("pc.ram", 0, 1);
        for (int page = 1; page < Pages; page++)
        {
            wire.NextPage((ulong)page << 12, (byte)page);
        }

        // The last page only in part: the reader has nothing whole to show for what it has received.
        source.Send(wire.U64((ulong)Pages << 12 | WireBytes.Page | WireBytes.Continue).Raw(1, 2, 3).ToArray());

        RamBlock block = await Eventually(() => migration.Destination.Blocks.Blocks.FirstOrDefault());
        _ = await Eventually(() => block.Received.AllSet(0, Pages) ? block : null);
        Assert.False(block.Received.Test(Pages));
        source.Abort();
        await Assert.ThrowsAsync<QemuIncomingException>(() => receiving);
        await migration.Destination.CloseAsync(MissingPagePolicy.KeepWaiting);
    }

    [Fact(Timeout = Limit)]
    public async Task WhatWasReceivedBehindAStretchThatTheSourceLeftIsNotAskedFor()
    {
        // A piece of a stretch, then the beginning of the next: all are in one receive buffer.
        const int First = 80, Next = 40;
        WireBytes wire = new WireBytes().Begin(("pc.ram", Ram, null)).Discard("pc.ram", (0, Ram)).Package().Part().NamedPage("pc.ram", 0, 1);
        for (int page = 1; page < First; page++)
        {
            wire.NextPage((ulong)page << 12, (byte)page);
        }

        for (int page = 512; page < 512 + Next; page++)
        {
            wire.NextPage((ulong)page << 12, (byte)page);
        }

        // On a busy machine the thread may come too late for many rounds: goes on until it did not.
        long early = 0;
        long deadline = Environment.TickCount64 + (Limit / 2);
        for (int round = 0; round < 20 || (early == 0 && Environment.TickCount64 < deadline); round++)
        {
            await using Migration migration = new(new PatternMemory(new SourceRamBlock("pc.ram", Ram)), null, new QemuIncomingOptions { RecoverTimeout = TimeSpan.FromSeconds(60) });
            migration.Offer(MigrationChannel.FromStream(new Replay(wire.ToArray())));
            Task<CompletionReport> receiving = migration.Receive();
            RamBlock block = await Eventually(() => migration.Destination.Blocks.Blocks.FirstOrDefault());
            Thread vcpu = new(() =>
            {
                // While the stretch that was left is being placed.
                byte[] one = new byte[1];
                SpinWait.SpinUntil(() => block.Received.Test(0));
                block.Read((512 + Next - 1) * 4096L, one);
            })
            { IsBackground = true };
            vcpu.Start();
            _ = await Eventually(() => block.Received.CountSet() == First + Next ? block : null);
            Assert.True(vcpu.Join(Limit / 2));
            Assert.Equal(0, migration.Destination.Faults.Requests);
            early += migration.Destination.Placer.Statistics.StagedPagesPlacedOnFault;
            Assert.False(receiving.IsCompleted, receiving.Exception?.ToString());
        }

        Assert.NotEqual(0, early);
    }

    private static async Task<T> Eventually<T>(Func<T?> look)
        where T : class
    {
        T? found;
        while ((found = look()) is null)
        {
            await Task.Delay(10, TestContext.Current.CancellationToken);
        }

        return found;
    }

    private static async Task<PlacementStatistics> Run(int threads, StretchPlacement stretches = StretchPlacement.Auto, bool preempt = false)
    {
        TaskCompletionSource running = new();
        await using Migration migration = new(
            new PatternMemory(new SourceRamBlock("pc.ram", Ram)),
            new QemuSourceOptions { Preempt = preempt ? QemuPreemptMode.AtSwitch : QemuPreemptMode.None },
            new QemuIncomingOptions { Preempt = preempt, OnRunning = () => running.TrySetResult() },
            new PostcopyOptions { Placer = new PlacerOptions { Stretches = stretches } });
        Task<CompletionReport> receiving = migration.Receive();
        Task<QemuSourceState> sending = migration.Send();
        await running.Task;
        Task<int>[] touching = migration.Touch(threads);
        CompletionReport report = await receiving;
        Assert.Equal(QemuSourceState.Completed, await sending);
        Assert.All(await Task.WhenAll(touching), wrong => Assert.Equal(0, wrong));
        PatternMemory.AssertRight(migration.Destination.Blocks.Blocks[0]);
        return report.Placement;
    }
}
