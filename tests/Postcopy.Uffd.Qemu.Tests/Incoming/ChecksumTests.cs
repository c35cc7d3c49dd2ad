using System.Collections.Concurrent;
using System.Net.Sockets;
using Postcopy.Uffd.Qemu.Tests.Live;

namespace Postcopy.Uffd.Qemu.Tests.Incoming;

/// <summary>Pages that the network damages, between our own source and destination.</summary>
public sealed class ChecksumTests
{
    private const int Limit = 60_000;
    private const long Ram = 8 << 20;
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(20);
    private readonly ConcurrentQueue<CorruptPage> _corrupt = [];
    private readonly ConcurrentQueue<DamagingStream> _networks = [];
    private readonly TaskCompletionSource _running = new(TaskCreationOptions.RunContinuationsAsynchronously);

    [Theory(Timeout = Limit)]
    [InlineData(QemuPreemptMode.None, 0)]
    [InlineData(QemuPreemptMode.None, 1)]
    [InlineData(QemuPreemptMode.AtStart, 0)]
    [InlineData(QemuPreemptMode.AtSwitch, 1)]
    public async Task ADamagedPageIsNamedNotPlacedAndAskedForAgain(QemuPreemptMode preempt, int precopyPasses)
    {
        long[] pages = [0, 3, 4, 100, 1001, (Ram / 4096) - 1];
        await using Migration migration = New(new SourceRamBlock("pc.ram", Ram), preempt, precopyPasses);
        await Completes(migration, socket => new DamagingStream(socket, "pc.ram", times: 2, pages));
        int hits = _networks.Sum(n => n.Hits);
        Assert.Equal(hits, _corrupt.Count);
        Assert.Equal(hits, migration.Incoming.Statistics.CorruptPages);
        Assert.True(hits >= pages.Length, $"only {hits} pages were damaged");
        Assert.Equal(pages, _corrupt.Select(c => c.Offset / 4096).Distinct().Order());
        Assert.All(_corrupt, c => Assert.True(c.Block == "pc.ram" && c.Expected != c.Actual));

        // One that was damaged twice in precopy is asked for once, at the switch.
        Assert.InRange(migration.Source.Statistics.ResentPages, pages.Length, hits);
    }

    [Theory(Timeout = Limit)]
    [InlineData(QemuPreemptMode.None, 0)]
    [InlineData(QemuPreemptMode.AtSwitch, 1)]
    public async Task AHugePageWithADamagedPartIsAskedForWhole(QemuPreemptMode preempt, int precopyPasses)
    {
        using HugePages pool = new((int)(Ram >> 21));
        long[] pages = [0, 7, 511, 513, 2047];
        await using Migration migration = New(new SourceRamBlock("huge.ram", Ram, 2 << 20), preempt, precopyPasses);
        await Completes(migration, socket => new DamagingStream(socket, "huge.ram", times: 2, pages));
        Assert.Equal(pages, _corrupt.Select(c => c.Offset / 4096).Distinct().Order());
        Assert.InRange(migration.Source.Statistics.ResentPages, 3, _corrupt.Count);
    }

    /// <summary>Any byte after the switch, heads, commands and handshakes of recoveries among them.</summary>
    [Theory(Timeout = Limit)]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(4)]
    public async Task WhateverIsDamagedTheMemoryIsRight(int seed)
    {
        await using Migration migration = New(new SourceRamBlock("pc.ram", Ram), QemuPreemptMode.None, 0, stall: TimeSpan.FromSeconds(2));
        Task<CompletionReport> receiving = migration.Receive();
        int connections = 0;
        MigrationChannel Next() => Over(migration, socket => new DamagingStream(socket, (seed * 1000) + connections++, 60_000, connections == 1 ? 100_000 : 2_000));
        Task<QemuSourceState> sending = migration.Source.RunAsync(Next());
        await await Task.WhenAny(_running.Task, receiving);
        Task<int>[] touching = migration.Touch(2);
        while (await sending != QemuSourceState.Completed)
        {
            Assert.Equal(QemuSourceState.PostcopyPaused, migration.Source.State);
            await Migration.Until(() => migration.Destination.State == PostcopyState.Paused || receiving.IsCompleted);
            Assert.False(receiving.IsFaulted, receiving.Exception?.ToString());
            sending = migration.Source.ResumeAsync(Next());
        }

        _ = await receiving;
        Assert.All(await Task.WhenAll(touching), wrong => Assert.Equal(0, wrong));
        PatternMemory.AssertRight(migration.Destination.Blocks.Blocks[0]);
        Assert.True(_networks.Sum(n => n.Hits) > 50, "the network was not bad enough");
        Assert.True(migration.Incoming.Statistics.CorruptPages > 30);
    }

    [Fact(Timeout = Limit)]
    public async Task WithoutChecksumsAPageIsRefusedWhereTheyAreRequired()
    {
        PatternMemory memory = new(new SourceRamBlock("pc.ram", Ram));
        await using Migration migration = new(memory, new QemuSourceOptions { PrecopyPasses = 1 },
            new QemuIncomingOptions { Stream = new QemuStreamOptions { RequirePageChecksums = true } });
        Task<CompletionReport> receiving = migration.Receive();
        Task<QemuSourceState> sending = migration.Send();
        QemuIncomingException e = await Assert.ThrowsAsync<QemuIncomingException>(() => receiving);
        Assert.Contains("a page with a checksum", e.Message, StringComparison.Ordinal);
        Assert.Contains("'pc.ram' offset 0x0", e.Message, StringComparison.Ordinal);
        Assert.Equal(QemuSourceState.Failed, await sending);
    }

    private async Task Completes(Migration migration, Func<Socket, DamagingStream> network)
    {
        Task<CompletionReport> receiving = migration.Receive();
        Func<MigrationChannel>? urgent = migration.SourceOptions.Preempt == QemuPreemptMode.None ? null : () => Over(migration, network);
        Task<QemuSourceState> sending = migration.Source.RunAsync(Over(migration, network), urgent);
        await await Task.WhenAny(_running.Task, receiving);
        Assert.All(await Task.WhenAll(migration.Touch(2)), wrong => Assert.Equal(0, wrong));
        migration.Source.BackgroundBandwidth = 0;
        _ = await receiving;
        Assert.Equal(QemuSourceState.Completed, await sending);
        Assert.Equal(0, migration.Incoming.Statistics.LostConnections);
        PatternMemory.AssertRight(migration.Destination.Blocks.Blocks[0]);
    }

    private MigrationChannel Over(Migration migration, Func<Socket, DamagingStream> network)
    {
        (Socket ours, Socket theirs) = migration.Pair();
        migration.Offer(MigrationChannel.FromSocket(theirs));
        DamagingStream stream = network(ours);
        _networks.Enqueue(stream);
        return MigrationChannel.FromStream(stream, ours);
    }

    private Migration New(SourceRamBlock block, QemuPreemptMode preempt, int precopyPasses, TimeSpan? stall = null) => new(
        new PatternMemory(block),
        new QemuSourceOptions
        {
            PageChecksums = true, Preempt = preempt, PrecopyPasses = precopyPasses, PrecopyLimit = Ram / 2, BackgroundBandwidth = 16 << 20,
        },
        new QemuIncomingOptions
        {
            Stream = new QemuStreamOptions { RequirePageChecksums = true },
            OnCorruptPage = _corrupt.Enqueue,
            OnRunning = () => _running.TrySetResult(),
            RecoverTimeout = s_patience,
            StallTimeout = stall ?? s_patience,
        });
}
