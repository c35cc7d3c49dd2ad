using System.Text.Json;
using Postcopy.Uffd.Qemu.Tests.Incoming;

namespace Postcopy.Uffd.Qemu.Tests.Live;

/// <summary>What a real source counts, and what it bears.</summary>
[Collection("live")]
public sealed class LiveCounterTests
{
    private const int Limit = 120_000;

    /// <summary>Members of query-migrate's ram that both sides can count.</summary>
    private static readonly string[] s_common = ["total", "remaining", "page-size", "normal", "normal-bytes", "duplicate", "postcopy-requests"];

    [Theory(Timeout = Limit)]
    [InlineData(false, false)]
    [InlineData(false, true)]
    [InlineData(true, false)]
    [InlineData(true, true)]
    public async Task TheSourcesCountersAreOurs(bool newest, bool preempt)
    {
        using QemuProcess qemu = QemuIncomingLiveTests.Stopped("-machine pc", newest);
        await using LiveMigration migration = new(qemu, preempt: preempt);
        migration.Begin(postcopyBandwidth: 200_000_000);
        await migration.RunningAsync();
        await Task.WhenAll(migration.Touch(4));
        _ = await migration.CompletedAsync();
        MigrationReport report = migration.Incoming.GetReport();
        JsonElement ours = JsonDocument.Parse(report.ToJson()).RootElement.GetProperty("ram");
        JsonElement source = qemu.Monitor.Execute("query-migrate").GetProperty("ram");
        TestContext.Current.TestOutputHelper?.WriteLine($"{source}\n{report.ToText()}");
        Assert.Equal(Values(source), Values(ours));
        Assert.True(report.Requests > 0);

        // 11.1 does not count the last records and commands.
        Assert.InRange(source.GetProperty("transferred").GetInt64(), report.TransferredBytes * 99 / 100, report.TransferredBytes * 101 / 100);
        string[] members = [.. source.EnumerateObject().Select(m => m.Name).Where(name => name != "skipped")];
        Assert.Equal(members.Order(), ours.EnumerateObject().Select(m => m.Name).Order());
    }

    /// <summary>Always eight on their way, in no order, over all of the memory: none of them may stop it.</summary>
    [Theory(Timeout = Limit)]
    [InlineData(false, false)]
    [InlineData(false, true)]
    [InlineData(true, false)]
    [InlineData(true, true)]
    public async Task EightRequestsInFlightNeverPauseTheSource(bool newest, bool preempt)
    {
        using QemuProcess qemu = QemuIncomingLiveTests.Stopped("-machine pc", newest);
        await using LiveMigration migration = new(qemu, preempt: preempt);
        migration.Begin(postcopyBandwidth: 20_000_000);
        await migration.RunningAsync();
        int next = -1;
        int[] pages = [.. Enumerable.Range((int)(LiveMigration.LoadedAt >> 12), 20_000)];
        new Random(8).Shuffle(pages);
        pages = pages[..400];
        await Task.WhenAll(Enumerable.Range(0, 8).Select(async _ =>
        {
            for (int i = Interlocked.Increment(ref next); i < pages.Length && !migration.Receiving.IsCompleted; i = Interlocked.Increment(ref next))
            {
                await migration.Destination.EnsurePresentAsync(migration.Ram, new PageRange((long)pages[i] << 12, 4096), TestContext.Current.CancellationToken);
            }
        }));
        Assert.Equal("postcopy-active", qemu.Monitor.MigrationStatus());
        migration.Unlimit();
        _ = await migration.CompletedAsync();
        Assert.Equal(0, migration.Incoming.Statistics.LostConnections);
        Assert.InRange(migration.Incoming.Statistics.Requests, 100, pages.Length);
        Assert.Equal(migration.SourceRequests(), migration.Incoming.Statistics.Requests);
    }

    /// <summary>Silent for StallTimeout, then given up by this side; the host may do so at any time.</summary>
    [Theory(Timeout = Limit)]
    [InlineData(false, false)]
    [InlineData(false, true)]
    [InlineData(true, false)]
    [InlineData(true, true)]
    public async Task AStallAndTheHostsPauseAreRecovered(bool newest, bool preempt)
    {
        using QemuProcess qemu = QemuIncomingLiveTests.Stopped("-machine pc", newest);
        string expected = QemuIncomingLiveTests.Hash(qemu);
        await using LiveMigration migration = new(qemu, preempt: preempt, stall: TimeSpan.FromSeconds(3));
        migration.Begin(postcopyBandwidth: 20_000_000);
        await migration.RunningAsync();
        qemu.Monitor.WaitForStatus("postcopy-active");
        Task[] touching = migration.Touch(2);
        await Migration.Until(() => migration.Destination.Blocks.MissingBytes < 90 << 20 || migration.Receiving.IsCompleted);
        migration.Network.StandStill();
        await Migration.Until(() => migration.Incoming.Statistics.LostConnections == 1 || migration.Receiving.IsCompleted);
        Assert.Contains("(StallTimeout)", migration.Incoming.GetReport().ToText(), StringComparison.Ordinal);

        // The source, which sees nothing of it, is told by its own operator.
        qemu.Monitor.Execute("migrate-pause");
        await migration.PausedAsync();
        migration.Resume();
        qemu.Monitor.WaitForStatus("postcopy-active");
        await Migration.Until(() => migration.Destination.State == PostcopyState.Running || migration.Receiving.IsCompleted);
        migration.Incoming.Pause("the test wants it");
        await migration.PausedAsync();
        Assert.Contains("Paused by the host: the test wants it.", migration.Incoming.GetReport().Error, StringComparison.Ordinal);
        migration.Unlimit();
        migration.Resume();
        await Task.WhenAll(touching);
        _ = await migration.CompletedAsync();
        Assert.Equal(expected, QemuIncomingLiveTests.Hash(migration.Ram));
        Assert.Equal(2, migration.Incoming.Statistics.LostConnections);
    }

    private static string[] Values(JsonElement ram) => [.. s_common.Select(name => $"{name} {ram.GetProperty(name).GetInt64()}")];
}
