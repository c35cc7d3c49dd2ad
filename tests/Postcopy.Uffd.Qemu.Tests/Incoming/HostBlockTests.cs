namespace Postcopy.Uffd.Qemu.Tests.Incoming;

/// <summary>The source's block list and the host's own blocks: matched by name, or refused while the guest is the source's.</summary>
public sealed class HostBlockTests
{
    private const int Limit = 30_000;
    private const long Ram = 64 << 10;

    [Fact(Timeout = Limit)]
    public async Task TheHostsOwnBlockIsFilledAndOthersAreMade()
    {
        await using Migration migration = new(new PatternMemory(new SourceRamBlock("pc.ram", Ram), new SourceRamBlock("pc.rom", Ram)));
        GuestMemory memory = GuestMemory.Allocate(new GuestMemoryOptions { Length = 4 * Ram });
        RamBlock own = migration.Destination.Blocks.Add(new RamBlockSpec { Name = "pc.ram", Memory = memory, MemoryOffset = Ram, UsedLength = Ram });
        Task<CompletionReport> receiving = migration.Receive();
        Task<QemuSourceState> sending = migration.Send();
        _ = await receiving;
        Assert.Equal(QemuSourceState.Completed, await sending);
        Assert.Equal(["pc.ram", "pc.rom"], migration.Destination.Blocks.Blocks.Select(b => b.Name));
        Assert.Same(own, migration.Destination.Blocks.Blocks[0]);
        Assert.Equal(memory.Address + (nuint)Ram, own.HostAddress);
        Assert.All(migration.Destination.Blocks.Blocks, PatternMemory.AssertRight);
    }

    [Theory(Timeout = Limit)]
    [InlineData("pc.ram", 2 * Ram, 4096, "has 65536 bytes in pages of 4096 bytes at the source, and 131072 bytes in pages of 4096 bytes here; both must agree")]
    [InlineData("pc.ram", 2L << 20, 2 << 20, "has 2097152 bytes in pages of 2097152 bytes at the source, and 2097152 bytes in pages of 4096 bytes here; both must agree")]
    [InlineData("my.ram", Ram, 4096, "RAM block 'my.ram' of this host is not in the source's list; its pages would never come")]
    public async Task ABlockThatDoesNotMatchIsRefusedBeforeAnyPage(string name, long length, int sourcePage, string message)
    {
        long sourceLength = sourcePage == 4096 ? Ram : length;
        await using Migration migration = new(
            new PatternMemory(new SourceRamBlock("pc.ram", sourceLength, sourcePage)),
            // One without may have its package out before it hears of the refusal.
            new QemuSourceOptions { UsePointOfNoReturn = true });
        _ = migration.Destination.Blocks.Add(new RamBlockSpec { Name = name, Memory = GuestMemory.Allocate(new GuestMemoryOptions { Length = length }) });
        Task<CompletionReport> receiving = migration.Receive();
        Task<QemuSourceState> sending = migration.Send();
        QemuIncomingException e = await Assert.ThrowsAsync<QemuIncomingException>(() => receiving);
        Assert.Contains(message, e.Message, StringComparison.Ordinal);
        Assert.True(e.SourceMayResume);
        Assert.Equal(QemuSourceState.Failed, await sending);
        Assert.Equal(0, migration.Incoming.Statistics.Pages);
    }

    /// <summary>A guest that touches it would wait for ever: better said before it runs.</summary>
    [Fact(Timeout = Limit)]
    public async Task APageThatNeitherCameNorWasDiscardedIsNamed()
    {
        byte[] stream = new WireBytes().Begin(("pc.ram", 4 * 4096, null))
            .Part().NamedPage("pc.ram", 0, 1).Finish()
            .Discard("pc.ram", (4096, 4096), (3 * 4096, 4096))
            .Ping(2).Package().ToArray();
        await using PostcopyDestination destination = new();
        await using QemuIncoming incoming = new(destination);
        using Replay replay = new(stream);
        Queue<Replay> connections = new([replay]);
        QemuIncomingException e = await Assert.ThrowsAsync<QemuIncomingException>(() => incoming.RunAsync(async token =>
        {
            if (connections.TryDequeue(out Replay? next))
            {
                return MigrationChannel.FromStream(next);
            }

            await Task.Delay(Timeout.Infinite, token);
            throw new OperationCanceledException(token);
        }));
        Assert.Contains("The page at offset 0x2000 of RAM block 'pc.ram' neither came nor was discarded", e.Message, StringComparison.Ordinal);
        Assert.True(e.SourceMayResume);
        Assert.NotEqual(PostcopyState.Running, destination.State);
    }
}
