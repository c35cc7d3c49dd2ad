using System.Text.Json;
using Postcopy.Uffd.Qemu.Tests.Incoming;

namespace Postcopy.Uffd.Qemu.Tests.Live;

/// <summary>Capabilities of a real QEMU that change the stream, from a guest that goes on writing.</summary>
[Collection("live")]
public sealed class CapabilityTests
{
    private const int Limit = 120_000;

    /// <summary>What the guest writes to is sent again and again, and from the second time on as deltas.</summary>
    [Theory(Timeout = Limit)]
    [InlineData("xbzrle", "xbzrle-cache", false)]
    [InlineData("xbzrle", "xbzrle-cache", true)]
    [InlineData("compress", "compression", false)]
    public async Task PackedPagesOfAWritingGuestArriveByteForByte(string capability, string counters, bool newest)
    {
        using QemuProcess qemu = await CountingAsync(newest);
        Enable(qemu, capability);

        // A guest that could be sent within the limit would complete in precopy.
        qemu.Monitor.Execute("migrate-set-parameters", "{\"downtime-limit\": 1}");
        await using LiveMigration migration = new(qemu);
        migration.Begin(precopyBandwidth: 40_000_000, switchAtOnce: false);
        await Migration.Until(() => Packed(qemu, counters) > 1000 || migration.Receiving.IsCompleted);
        qemu.Monitor.Execute("migrate-start-postcopy");
        await migration.RunningAsync();
        await Task.WhenAll(migration.Touch(4));
        _ = await migration.CompletedAsync();
        Assert.True(Packed(qemu, counters) > 1000);
        Assert.Equal(QemuIncomingLiveTests.Hash(qemu), QemuIncomingLiveTests.Hash(migration.Ram));
        TestContext.Current.TestOutputHelper?.WriteLine($"{Packed(qemu, counters)} packed pages; {migration.Incoming.Statistics}");
    }

    /// <summary>
    /// What adds a subsection, an answer or a stop on the way to the switch. 11.1 wants SWITCHOVER_ACK unasked from machine types
    /// that have it the old way only; an ack that no device waits for is an error otherwise, and the source stands still.
    /// </summary>
    [Theory(Timeout = Limit)]
    [InlineData("validate-uuid", false)]
    [InlineData("validate-uuid", true)]
    [InlineData("pause-before-switchover", false)]
    [InlineData("pause-before-switchover", true)]
    [InlineData("switchover-ack", true)]
    [InlineData("switchover-ack", true, "pc-i440fx-10.0", true)]
    public async Task OtherCapabilitiesDoNotGetInTheWay(string capability, bool newest, string machine = "pc", bool acknowledge = false)
    {
        using QemuProcess qemu = QemuIncomingLiveTests.Stopped($"-machine {machine} -uuid 8a8d8f3e-6d0c-4d39-9f2e-0a3b1c5d7e9f", newest);
        await using LiveMigration migration = new(qemu, switchoverAck: acknowledge);
        if (capability == "switchover-ack")
        {
            Enable(qemu, "return-path");
        }

        Enable(qemu, capability);
        migration.Begin();
        if (capability == "pause-before-switchover")
        {
            qemu.Monitor.WaitForStatus("pre-switchover");
            qemu.Monitor.Execute("migrate-continue", "{\"state\": \"pre-switchover\"}");
        }

        await migration.RunningAsync().WaitAsync(TimeSpan.FromSeconds(60), TestContext.Current.CancellationToken);
        await Task.WhenAll(migration.Touch(2));
        _ = await migration.CompletedAsync();
        Assert.Equal(QemuIncomingLiveTests.Hash(qemu), QemuIncomingLiveTests.Hash(migration.Ram));
    }

    /// <summary>Its pages would come over channels of their own.</summary>
    [Theory(Timeout = Limit)]
    [InlineData(false)]
    [InlineData(true)]
    public async Task MultifdIsRefusedWithItsRemedy(bool newest)
    {
        using QemuProcess qemu = await CountingAsync(newest);
        await using LiveMigration migration = new(qemu);
        Enable(qemu, "multifd");
        migration.Begin(precopyBandwidth: 40_000_000, switchAtOnce: false);
        Exception e = await Assert.ThrowsAnyAsync<Exception>(() => migration.Receiving);
        TestContext.Current.TestOutputHelper?.WriteLine(e.ToString());
        Assert.Contains("migrate_set_capability multifd off", e.Message, StringComparison.Ordinal);
        Assert.True(Assert.IsType<QemuIncomingException>(e).SourceMayResume);
        qemu.Monitor.WaitForStatus("failed");
    }

    private static void Enable(QemuProcess qemu, string capability) =>
        qemu.Monitor.Execute("migrate-set-capabilities", $"{{\"capabilities\": [{{\"capability\": \"{capability}\", \"state\": true}}]}}");

    private static long Packed(QemuProcess qemu, string counters) =>
        qemu.Monitor.Execute("query-migrate").TryGetProperty(counters, out JsonElement of) ? of.GetProperty("pages").GetInt64() : 0;

    private static Task<QemuProcess> CountingAsync(bool newest) => LiveBreakTests.CountingAsync(newest);
}
