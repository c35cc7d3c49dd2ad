using System.Text.Json;

namespace Postcopy.Uffd.Qemu.Tests.Incoming;

/// <summary>The report in QEMU's words, and that it says the right thing at each stage.</summary>
public sealed class MigrationReportTests
{
    private const int Limit = 60_000;
    private const long Ram = 8 << 20;
    private const int Pages = (int)(Ram / 4096);

    /// <summary>What query-migrate of QEMU 11.1 has, of a source and of a destination.</summary>
    private static readonly string[] s_ramMembers =
    [
        "total", "postcopy-requests", "dirty-sync-count", "multifd-bytes", "pages-per-second", "downtime-bytes", "page-size", "remaining", "postcopy-bytes",
        "mbps", "transferred", "dirty-sync-missed-zero-copy", "precopy-bytes", "duplicate", "dirty-pages-rate", "normal-bytes", "normal",
    ];

    private static readonly string[] s_members =
    [
        "status", "total-time", "ram", "postcopy-blocktime", "postcopy-vcpu-blocktime", "postcopy-latency", "postcopy-latency-dist",
        "postcopy-vcpu-latency", "postcopy-non-vcpu-latency", "postcopy-uffd",
    ];

    [Fact(Timeout = Limit)]
    public async Task EachStageHasQemusName()
    {
        TaskCompletionSource running = new();
        TaskCompletionSource mayLoad = new();
        await using Migration migration = new(
            new PatternMemory(new SourceRamBlock("pc.ram", Ram)),
            new QemuSourceOptions { BackgroundBandwidth = 2 << 20, UsePointOfNoReturn = true },
            new QemuIncomingOptions { OnPackage = async (_, _) => await mayLoad.Task, OnRunning = running.SetResult, RecoverTimeout = TimeSpan.FromSeconds(20) },
            new PostcopyOptions { Blocktime = new BlocktimeOptions() });
        Assert.Equal("setup", migration.Incoming.GetReport().Status);
        Assert.Equal(TimeSpan.Zero, migration.Incoming.GetReport().TotalTime);
        Task<CompletionReport> receiving = migration.Receive();
        Task<QemuSourceState> sending = migration.Send();
        await Migration.Until(() => migration.Incoming.GetReport().Status == "postcopy-device");
        mayLoad.SetResult();
        await running.Task;
        await Migration.Until(() => migration.Incoming.GetReport() is { Status: "postcopy-active", PostcopyBytes: > 0 });
        // A connection that is lost before the source has read the answer of the point of no return is not recovered.
        await Migration.Until(() => migration.Source.State == QemuSourceState.PostcopyActive);
        migration.Source.BreakConnection();
        Assert.Equal(QemuSourceState.PostcopyPaused, await sending);
        await Migration.Until(() => migration.Incoming.GetReport() is { Status: "postcopy-paused", Error: not null });
        using (MigrationChannel handshake = migration.Connect())
        {
            // RECV_BITMAP: the source's next word would be RESUME.
            handshake.Send([8, 0, 10, 0, 7, 6, .. "pc.ram"u8]);
            await Migration.Until(() => migration.Incoming.GetReport().Status == "postcopy-recover");
        }

        await Migration.Until(() => migration.Incoming.GetReport().Status == "postcopy-paused");
        sending = migration.Resend();
        migration.Source.BackgroundBandwidth = 0;
        _ = await receiving;
        Assert.Equal(QemuSourceState.Completed, await sending);
        MigrationReport report = migration.Incoming.GetReport();
        Assert.Equal("completed", report.Status);
        Assert.Null(report.Error);
        Assert.Equal(report.TotalTime, migration.Incoming.GetReport().TotalTime);
    }

    [Fact(Timeout = Limit)]
    public async Task TheNumbersAreTheSourcesAndTheMembersAreQueryMigrates()
    {
        await using Migration migration = await CompletedAsync();
        MigrationReport report = migration.Incoming.GetReport();
        using JsonDocument json = JsonDocument.Parse(report.ToJson());
        Assert.Equal(s_members.Order(), json.RootElement.EnumerateObject().Select(m => m.Name).Order());
        JsonElement ram = json.RootElement.GetProperty("ram");
        Assert.Equal(s_ramMembers.Order(), ram.EnumerateObject().Select(m => m.Name).Order());
        Assert.Equal("completed", json.RootElement.GetProperty("status").GetString());
        Assert.Equal(Ram, ram.GetProperty("total").GetInt64());
        Assert.Equal(0, ram.GetProperty("remaining").GetInt64());
        Assert.Equal(Pages / 8, ram.GetProperty("duplicate").GetInt64());
        Assert.Equal(Pages - (Pages / 8), ram.GetProperty("normal").GetInt64());
        Assert.Equal(4096 * ram.GetProperty("normal").GetInt64(), ram.GetProperty("normal-bytes").GetInt64());
        Assert.Equal(migration.Source.Statistics.Requests, ram.GetProperty("postcopy-requests").GetInt64());
        Assert.InRange(ram.GetProperty("transferred").GetInt64(), Ram * 7 / 8, Ram);
        Assert.Equal(ram.GetProperty("transferred").GetInt64(), ram.GetProperty("precopy-bytes").GetInt64() + ram.GetProperty("postcopy-bytes").GetInt64());
        Assert.InRange(ram.GetProperty("precopy-bytes").GetInt64(), 100, 4096);
        Assert.True(json.RootElement.GetProperty("total-time").GetInt64() > 0);
        Assert.True(ram.GetProperty("mbps").GetDouble() > 0);
    }

    [Fact(Timeout = Limit)]
    public async Task TheTextIsThatOfInfoMigrate()
    {
        await using Migration migration = await CompletedAsync();
        MigrationReport report = migration.Incoming.GetReport() with { TotalTime = TimeSpan.FromMilliseconds(2675), TransferredBytes = 55_210_140, PrecopyBytes = 21_014_583, TotalBytes = 134_750_208 };
        string[] lines = report.ToText().Split('\n');
        Assert.Equal(
            [
                "Status: \t\tcompleted",
                "Time (ms): \t\ttotal=2675",
                "RAM info:",
                "  Throughput (Mbps): \t165.11",
                "  Sizes: \t\tpagesize=4 KiB, total=129 MiB",
                "  Transfers: \t\ttransferred=52.7 MiB, remain=0 B",
                "    Channels: \t\tprecopy=20 MiB, multifd=0 B, postcopy=32.6 MiB",
                "    Page Types: \tnormal=1792, zero=256",
                "  Page Rates (pps): \ttransfer=765",
            ],
            lines[..9]);
        Assert.Equal($"  Others: \t\tpostcopy_req={report.Requests}", lines[9]);
        Assert.Equal(["Postcopy Blocktime (ms): 0", "Postcopy vCPU Blocktime (ms):", " []"], lines[10..13]);
        Assert.Contains("Postcopy Latency Distribution:", lines);
        Assert.Matches(@"^  \[     1 us -     2 us \]: +\d+$", lines[18]);
        Assert.Matches(@"^  \[   512 us -     1 ms \]: +\d+$", lines[27]);
        Assert.Matches(@"^  \[    32 ms -    65 ms \]: +\d+$", lines[33]);
        Assert.Matches(@"^  \[   524 ms -    1 sec \]: +\d+$", lines[37]);
        Assert.Matches(@"^  \[    8 sec -   16 sec \]: {10}0$", lines[41]);
        Assert.Equal([""], lines[42..]);
    }

    [Fact(Timeout = Limit)]
    public async Task AFailureAndACancellationAreToldApart()
    {
        await using Migration failed = new(new PatternMemory(new SourceRamBlock("pc.ram", Ram)), null, new QemuIncomingOptions { OnPackage = (_, _) => throw new NotSupportedException("this CPU cannot be taken") });
        Task<CompletionReport> receiving = failed.Receive();
        _ = failed.Send();
        _ = await Assert.ThrowsAsync<QemuIncomingException>(() => receiving);
        MigrationReport report = failed.Incoming.GetReport();
        Assert.Equal("failed", report.Status);
        Assert.Contains("\"error-desc\":\"The device state was not accepted: this CPU cannot be taken\"", report.ToJson(), StringComparison.Ordinal);
        Assert.StartsWith("Status: \t\tfailed (The device state was not accepted", report.ToText(), StringComparison.Ordinal);

        await using Migration cancelled = new(new PatternMemory(new SourceRamBlock("pc.ram", Ram)));
        using CancellationTokenSource stop = new();
        receiving = cancelled.Receive(stop.Token);
        await stop.CancelAsync();
        _ = await Assert.ThrowsAnyAsync<OperationCanceledException>(() => receiving);
        Assert.Equal("cancelled", cancelled.Incoming.GetReport().Status);
    }

    private static async Task<Migration> CompletedAsync()
    {
        Migration migration = new(new PatternMemory(new SourceRamBlock("pc.ram", Ram)), null, null, new PostcopyOptions { Blocktime = new BlocktimeOptions() });
        Task<CompletionReport> receiving = migration.Receive();
        Task<QemuSourceState> sending = migration.Send();
        _ = await receiving;
        Assert.Equal(QemuSourceState.Completed, await sending);
        return migration;
    }
}
