using Postcopy.Uffd.Qemu.Tests.Live;

namespace Postcopy.Uffd.Qemu.Tests.Incoming;

/// <summary>What a source sent in one whole migration: the main connection, and the urgent channel where it has one.</summary>
internal sealed record Capture(string Name, byte[] Main, byte[]? Urgent)
{
    private const int Ram = 256 << 10;
    private const int Filled = 96 << 10;

    /// <summary>A guest of a few pages of a real QEMU, switched at once; with preempt some pages are asked for.</summary>
    internal static async Task<Capture> OfQemuAsync(bool newest, bool preempt)
    {
        byte[] content = new byte[Ram];
        new Random(1).NextBytes(content.AsSpan(0, Filled));
        using QemuProcess qemu = new(
            $"-machine none,memory-backend=mem0 -object memory-backend-file,id=mem0,size={Ram >> 10}K,mem-path=@DIR@/content,share=on", newest, content: content);
        await using LiveMigration migration = new(qemu, preempt: preempt);
        migration.Begin(precopyBandwidth: 10_000, postcopyBandwidth: preempt ? 100_000 : 0);
        await migration.RunningAsync();
        if (preempt)
        {
            // From the end on: the background begins at the front.
            for (int page = (Filled >> 12) - 1; page >= (Filled >> 13); page--)
            {
                await migration.Destination.EnsurePresentAsync(migration.Ram, new PageRange((long)page << 12, 4096), TestContext.Current.CancellationToken);
            }

            migration.Unlimit();
        }

        _ = await migration.CompletedAsync();
        byte[][] recordings = migration.Network.Recordings;
        byte[] main = recordings.First(r => r.Length > 4 && r[0] == 'Q');
        return new Capture($"{(newest ? "11.1" : "7.2")}{(preempt ? " preempt" : "")}", main, preempt ? recordings.First(r => r != main) : null);
    }

    /// <summary>Our own source, with what the others leave out: precopy passes, or checksums.</summary>
    internal static async Task<Capture> OfOursAsync(bool precopy, bool checksums)
    {
        await using Migration migration = new(
            new PatternMemory(new SourceRamBlock("pc.ram", Ram), new SourceRamBlock("pc.rom", 16 << 10)),
            new QemuSourceOptions { PrecopyPasses = precopy ? 1 : 0, PrecopyLimit = Ram / 2, UsePointOfNoReturn = true, SendSwitchoverStart = true, PageChecksums = checksums });
        Task<CompletionReport> receiving = migration.Receive();
        (MigrationChannel main, Relay relay) = migration.ConnectOver();
        Assert.Equal(QemuSourceState.Completed, await migration.Source.RunAsync(main));
        _ = await receiving;
        return new Capture(precopy ? "precopy" : "checksums", [.. relay.Recording], null);
    }
}
