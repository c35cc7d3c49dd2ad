using System.Net.Sockets;
using Postcopy.Uffd.Qemu.Tests.Live;

namespace Postcopy.Uffd.Qemu.Tests.Incoming;

/// <summary>Huge pages of a resumed migration that come end first, as QEMU 7.2 sends them; by hand, with real userfaults.</summary>
[Collection("live")]
public sealed class HostPagePartsTests
{
    private const int Limit = 60_000;
    private const int PagesPerHuge = 512;
    private const ulong Huge = 0x200000;

    [Theory(Timeout = Limit)]
    [InlineData(1)]
    [InlineData(511)]
    public async Task APageThatComesEndFirstIsPlacedWhenItsBeginningCame(int beginning)
    {
        using HugePages pool = new(2);
        await using Migration migration = await BrokenAsync();
        using Socket main = await ResumedAsync(migration);
        Send(main, Run(new WireBytes().Part(), beginning, PagesPerHuge));
        Send(main, Run(new WireBytes(), PagesPerHuge, 2 * PagesPerHuge));
        await Until(() => migration.Destination.Blocks.MissingBytes == (long)Huge);
        Assert.False(Block(migration).Received.Test(0));
        Send(main, Run(new WireBytes(), 0, beginning).Finish().End().Finish().U8(0));
        await CompletedAsync(migration, main);
        Assert.Equal(1, migration.Incoming.SplitHostPages);
    }

    [Fact(Timeout = Limit)]
    public async Task ItsBeginningMayComeOnTheOtherChannel()
    {
        using HugePages pool = new(2);
        await using Migration migration = await BrokenAsync();
        using Socket main = await ResumedAsync(migration);
        using Socket urgent = Connect(migration);
        Send(main, Run(new WireBytes().Part(), 0, 9));
        Send(main, Run(new WireBytes(), PagesPerHuge, 2 * PagesPerHuge));
        await Until(() => migration.Destination.Blocks.MissingBytes == (long)Huge);
        Send(urgent, Run(new WireBytes(), 9, PagesPerHuge));
        await Until(() => migration.Destination.Blocks.MissingBytes == 0);
        Send(main, new WireBytes().Finish().End().Finish().U8(0));
        await CompletedAsync(migration, main);
    }

    [Fact(Timeout = Limit)]
    public async Task APartThatComesOnBothChannelsFillsNoOthersHole()
    {
        using HugePages pool = new(2);
        await using Migration migration = await BrokenAsync();
        using Socket main = await ResumedAsync(migration);
        using Socket urgent = Connect(migration);
        Send(main, Run(new WireBytes().Part(), 0, 9));
        Send(main, Run(new WireBytes(), PagesPerHuge, 2 * PagesPerHuge));
        await Until(() => migration.Destination.Blocks.MissingBytes == (long)Huge);
        Send(urgent, Run(new WireBytes(), 5, PagesPerHuge));
        await Until(() => migration.Destination.Blocks.MissingBytes == 0);
        Send(main, new WireBytes().Finish().End().Finish().U8(0));
        await CompletedAsync(migration, main);
    }

    [Fact(Timeout = Limit)]
    public async Task ItMayComeAgainWhole()
    {
        using HugePages pool = new(2);
        await using Migration migration = await BrokenAsync();
        using Socket main = await ResumedAsync(migration);
        Send(main, Run(new WireBytes().Part(), 100, PagesPerHuge));
        Send(main, Run(new WireBytes(), 0, PagesPerHuge));
        Send(main, Run(new WireBytes(), PagesPerHuge, 2 * PagesPerHuge).Finish().End().Finish().U8(0));
        await CompletedAsync(migration, main);
    }

    /// <summary>What was here of it is forgotten, the bitmap says missing, and a request for it is sent again.</summary>
    [Fact(Timeout = Limit)]
    public async Task LostAgainItIsMissingStill()
    {
        using HugePages pool = new(2);
        await using Migration migration = await BrokenAsync();
        Task<int>[] touching = [];
        using (Socket first = await ResumedAsync(migration))
        {
            touching = migration.Touch(1);
            Send(first, Run(new WireBytes().Part(), 100, PagesPerHuge));
            await Until(() => migration.Incoming.SplitHostPages == 1);
        }

        await Until(() => migration.Destination.State == PostcopyState.Paused);
        using Socket main = await ResumedAsync(migration);
        byte[] request = Receive(main, 4 + 8 + 4 + 2);
        Assert.Equal(3, request[1]);
        Send(main, Run(new WireBytes().Part(), PagesPerHuge, 2 * PagesPerHuge));
        Send(main, Run(new WireBytes(), 0, PagesPerHuge).Finish().End().Finish().U8(0));
        await CompletedAsync(migration, main);
        Assert.Equal(2, migration.Incoming.Statistics.LostConnections);
        Assert.Equal(0, Assert.Single(await Task.WhenAll(touching)));
    }

    [Fact(Timeout = Limit)]
    public async Task WithoutItsBeginningTheEndOfTheStreamIsAFailureThatNamesIt()
    {
        using HugePages pool = new(2);
        await using Migration migration = await BrokenAsync(stall: TimeSpan.FromSeconds(0.3));
        using Socket main = await ResumedAsync(migration);
        Send(main, Run(Run(new WireBytes().Part(), 100, PagesPerHuge), PagesPerHuge, 2 * PagesPerHuge).Finish().End().Finish().U8(0));
        QemuIncomingException e = await Assert.ThrowsAsync<QemuIncomingException>(() => _receiving);
        Assert.Contains("The stream has ended", e.Message, StringComparison.Ordinal);
        Assert.Equal((long)Huge, migration.Destination.Blocks.MissingBytes);
    }

    private Task<CompletionReport> _receiving = null!;

    /// <summary>Up to the switch, and a connection that is lost inside the first huge page.</summary>
    private async Task<Migration> BrokenAsync(TimeSpan? stall = null)
    {
        Migration migration = new(
            new PatternMemory(new SourceRamBlock("h", 2 * (long)Huge, (long)Huge)), null,
            new QemuIncomingOptions { RecoverTimeout = TimeSpan.FromSeconds(20), StallTimeout = stall ?? TimeSpan.FromSeconds(20) });
        _receiving = migration.Receive();
        using Socket first = Connect(migration);
        Send(first, Run(new WireBytes().Begin(("h", 2 * Huge, Huge)).Discard("h", (0, 2 * Huge)).Package().Part(), 0, 50));
        await Until(() => migration.Destination.State == PostcopyState.Running);
        first.Dispose();
        await Until(() => migration.Destination.State == PostcopyState.Paused);
        return migration;
    }

    private async Task<Socket> ResumedAsync(Migration migration)
    {
        Socket main = Connect(migration);
        Send(main, new WireBytes().Command(10, [1, (byte)'h']));
        byte[] bitmap = Receive(main, 4 + 2 + 8 + 128 + 8);
        Assert.True(bitmap.AsSpan(14, 128).IndexOfAnyExcept((byte)0) < 0, "a page counts as received that is not whole");
        Send(main, new WireBytes().Command(9));
        Assert.Equal([0, 6, 0, 4, 0, 0, 0, 1], Receive(main, 8));
        await Until(() => migration.Destination.State == PostcopyState.Running);
        return main;
    }

    private async Task CompletedAsync(Migration migration, Socket main)
    {
        await Until(() => migration.Destination.State == PostcopyState.End);
        main.Shutdown(SocketShutdown.Send);
        _ = await _receiving;
        PatternMemory.AssertRight(Block(migration));
    }

    private async Task Until(Func<bool> condition)
    {
        await Migration.Until(() => condition() || _receiving.IsCompleted);
        if (!condition())
        {
            _ = await _receiving;
        }
    }

    private static RamBlock Block(Migration migration) => migration.Destination.Blocks.Blocks[0];

    private static Socket Connect(Migration migration)
    {
        (Socket ours, Socket theirs) = migration.Pair();
        migration.Offer(MigrationChannel.FromSocket(theirs));
        ours.ReceiveTimeout = ours.SendTimeout = Limit / 2;
        return ours;
    }

    private static WireBytes Run(WireBytes wire, int first, int end)
    {
        byte[] page = new byte[4096];
        for (int number = first; number < end; number++)
        {
            PatternMemory.Fill("h", number * 4096L, page);
            wire.U64(((ulong)number << 12) | WireBytes.Page | (number == first ? 0 : WireBytes.Continue));
            if (number == first)
            {
                wire.Name("h");
            }

            wire.Raw(page);
        }

        return wire;
    }

    private static void Send(Socket socket, WireBytes wire)
    {
        ReadOnlySpan<byte> bytes = wire.ToArray();
        while (!bytes.IsEmpty)
        {
            bytes = bytes[socket.Send(bytes)..];
        }
    }

    private static byte[] Receive(Socket socket, int count)
    {
        byte[] bytes = new byte[count];
        for (int got = 0; got < count;)
        {
            int now = socket.Receive(bytes, got, count - got, SocketFlags.None);
            Assert.NotEqual(0, now);
            got += now;
        }

        return bytes;
    }
}
