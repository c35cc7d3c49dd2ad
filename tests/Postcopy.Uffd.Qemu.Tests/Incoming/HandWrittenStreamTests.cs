using System.Net.Sockets;

namespace Postcopy.Uffd.Qemu.Tests.Incoming;

/// <summary>Streams that no source sends on purpose, by hand, with real userfaults.</summary>
public sealed class HandWrittenStreamTests
{
    private const int Limit = 60_000;
    private const ulong Ram = 4 << 20;
    private const int Some = 10;

    [Fact(Timeout = Limit)]
    public async Task APageThatNeitherCameNorWasDiscardedRefusesTheSwitch()
    {
        await using Migration migration = New();
        Task<CompletionReport> receiving = migration.Receive();
        using Socket main = Connect(migration);

        Send(main, new WireBytes().Begin(("r", Ram, null)).Discard("r", (0, Ram / 2)).Package());

        QemuIncomingException e = await Assert.ThrowsAsync<QemuIncomingException>(() => receiving);
        Assert.Contains($"offset 0x{Ram / 2:x} of RAM block 'r' neither came nor was discarded", e.Message, StringComparison.Ordinal);
        Assert.True(e.SourceMayResume);

        // And the source hears of it: SHUT 1 is the last word.
        Assert.Equal([0, 1, 0, 4, 0, 0, 0, 1], ReceiveAll(main).TakeLast(8));
    }

    [Fact(Timeout = Limit)]
    public async Task ALostUrgentChannelTakesTheMainConnectionAlong()
    {
        // Pages on their way on it are counted as sent: only the bitmaps of a recovery bring them again.
        await using Migration migration = New();
        Task<CompletionReport> receiving = migration.Receive();
        using Socket main = Connect(migration);
        Send(main, new WireBytes().Begin(("r", Ram, null)).Discard("r", (0, Ram)).Package());
        await Migration.Until(() => receiving.IsCompleted || migration.Destination.State == PostcopyState.Running);
        using (Socket urgent = Connect(migration))
        {
            Send(urgent, new WireBytes().NamedPage("r", Ram / 2, 5));
            await Migration.Until(() => receiving.IsCompleted || migration.Destination.Blocks.Blocks[0].Received.CountSet() == 1);
        }

        await Migration.Until(() => receiving.IsCompleted || migration.Destination.State == PostcopyState.Paused);
        Assert.False(receiving.IsCompleted);
    }

    [Fact(Timeout = Limit)]
    public async Task ASilentSourceHoldsNoPageBack()
    {
        await using Migration migration = New();
        Task<CompletionReport> receiving = migration.Receive();
        using Socket main = Connect(migration);

        // The beginning of a stretch of 2 MiB, whose rest does not come.
        Send(main, Pages(new WireBytes().Begin(("r", Ram, null)).Discard("r", (0, Ram)).Package().Part()));

        await Migration.Until(() => receiving.IsCompleted || (migration.Destination.Blocks.Blocks is [var ram] && ram.Received.CountSet() == Some));
        Assert.False(receiving.IsCompleted);
    }

    [Fact(Timeout = Limit)]
    public async Task WhatIsStagedWhenTheLinkEndsIsReceived()
    {
        // The source counts it as sent; what the bitmap of the recovery lacks it would send again, and what it has not it never would.
        await using Migration migration = New();
        Task<CompletionReport> receiving = migration.Receive();
        using (Socket main = Connect(migration))
        {
            Send(main, Pages(new WireBytes().Begin(("r", Ram, null)).Discard("r", (0, Ram)).Package().Part()));
        }

        await Migration.Until(() => receiving.IsCompleted || migration.Destination.State == PostcopyState.Paused);
        await Migration.Until(() => receiving.IsCompleted || migration.Destination.Blocks.Blocks[0].Received.CountSet() == Some);
        Assert.False(receiving.IsCompleted);
    }

    [Fact(Timeout = Limit)]
    public async Task ASecondSourceBeforeTheFirstHasSaidWhatItSendsIsTurnedAway()
    {
        await using Migration migration = New();
        Task<CompletionReport> receiving = migration.Receive();
        using Socket first = Connect(migration);
        Send(first, new WireBytes().Header().Command(1).Ping(1));
        byte[] pong = new byte[8];
        Assert.Equal(8, first.Receive(pong));
        using Socket second = Connect(migration);

        Send(second, new WireBytes().Header().Command(1).Ping(2));

        Assert.Empty(ReceiveAll(second));
        Send(first, new WireBytes().Ping(3));
        Assert.Equal(8, first.Receive(pong));
        Assert.Equal([0, 2, 0, 4, 0, 0, 0, 3], pong);
        Assert.False(receiving.IsCompleted);
    }

    [Fact(Timeout = Limit)]
    public async Task NothingThatHasBeenReceivedIsAskedForHoweverMuchOfItThereIs()
    {
        // Zero pages of which no two are neighbours, in sections of 100: all are here with one read, and take long to place.
        const int Pages = 40_000;
        WireBytes wire = new WireBytes().Begin(("r", Pages * 4096UL, null)).Discard("r", (0, Pages * 4096UL)).Package().Part();
        for (ulong page = 0; page < Pages; page += 2)
        {
            _ = page % 200 == 0 ? wire.Finish().Part().NamedZero("r", page * 4096) : wire.NextZero(page * 4096);
        }

        long early = 0;
        for (int round = 0; round < 10 && early == 0; round++)
        {
            await using Migration migration = New(Pages * 4096L);
            migration.Offer(MigrationChannel.FromStream(new Replay(wire.ToArray())));
            Task<CompletionReport> receiving = migration.Receive();
            await Migration.Until(() => receiving.IsCompleted || migration.Destination.State == PostcopyState.Running);
            RamBlock ram = migration.Destination.Blocks.Blocks[0];
            Thread vcpu = new(() =>
            {
                byte[] one = new byte[1];
                SpinWait.SpinUntil(() => ram.Received.Test(0));
                for (long page = Pages - 2; page > 0 && !ram.Received.Test(page); page -= 2)
                {
                    ram.Read(page * 4096, one);
                }
            })
            { IsBackground = true };
            vcpu.Start();
            await Migration.Until(() => receiving.IsCompleted || ram.Received.CountSet() == Pages / 2);
            Assert.False(receiving.IsCompleted);
            Assert.True(vcpu.Join(Limit / 2));
            Assert.Equal((0, 0), (migration.Destination.Faults.Requests, migration.Destination.Placer.Statistics.AlreadyReceivedPages));
            early = migration.Destination.Placer.Statistics.StagedPagesPlacedOnFault;
        }

        Assert.NotEqual(0, early);
    }

    private static Migration New(long ram = (long)Ram) => new(
        new PatternMemory(new SourceRamBlock("r", ram)), null,
        new QemuIncomingOptions { RecoverTimeout = TimeSpan.FromSeconds(60), StallTimeout = TimeSpan.FromSeconds(60) });

    private static WireBytes Pages(WireBytes wire)
    {
        _ = wire.NamedPage("r", 0, 1);
        for (ulong page = 1; page < Some; page++)
        {
            _ = wire.NextPage(page * 4096, (byte)(1 + page));
        }

        return wire;
    }

    private static Socket Connect(Migration migration)
    {
        (Socket ours, Socket theirs) = migration.Pair();
        migration.Offer(MigrationChannel.FromSocket(theirs));
        ours.ReceiveTimeout = ours.SendTimeout = Limit / 2;
        return ours;
    }

    private static List<byte> ReceiveAll(Socket socket)
    {
        List<byte> all = [];
        byte[] some = new byte[4096];
        for (int got; (got = socket.Receive(some)) > 0;)
        {
            all.AddRange(some.AsSpan(0, got));
        }

        return all;
    }

    private static void Send(Socket socket, WireBytes wire)
    {
        ReadOnlySpan<byte> bytes = wire.ToArray();
        while (!bytes.IsEmpty)
        {
            bytes = bytes[socket.Send(bytes)..];
        }
    }
}
