using System.Diagnostics.Metrics;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Diagnostics.HealthChecks;
using Microsoft.Extensions.Hosting;
using Postcopy.Uffd.Qemu;
using Postcopy.Uffd.Qemu.Tests.Incoming;

namespace Postcopy.Uffd.Hosting.Tests;

/// <summary>A host, a real source, real faults.</summary>
public sealed class HostedDestinationTests
{
    private const int Limit = 60_000;
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(40);

    [Fact(Timeout = Limit)]
    public async Task TheGuestArrivesAndTheHostSeesEachStep()
    {
        await using HostedDestination hosted = new();
        await hosted.Host.StartAsync();
        Assert.Equal((HealthStatus.Healthy, "Waiting for a source."), Of(await hosted.Health()));
        Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(hosted.Path));
        await using QemuSource source = hosted.NewSource();
        Assert.Equal(QemuSourceState.Completed, await source.RunAsync(hosted.Connect()));
        CompletionReport report = await hosted.Receiver.Completion.WaitAsync(s_patience);
        Assert.Equal(["prepare in None", "block pc.ram", "devices", "run", $"completed {HostedDestination.Ram}"], hosted.Guest.Steps);
        Assert.NotNull(report.Blocktime);
        PatternMemory.AssertRight(hosted.Receiver.Destination.Blocks.Blocks[0]);
        HealthReportEntry health = await hosted.Health();
        Assert.Equal((HealthStatus.Healthy, "The guest is here."), Of(health));
        Assert.Equal(0L, health.Data["missingBytes"]);
        Assert.False(File.Exists(hosted.Path), "It listens no more.");
        await hosted.Host.StopAsync();
    }

    [Fact(Timeout = Limit)]
    public async Task ALostLinkIsDegradedUntilTheSourceIsBack()
    {
        await using HostedDestination hosted = new(o => o.StallAlarm = TimeSpan.FromDays(1));
        await hosted.Host.StartAsync();
        await using QemuSource source = hosted.NewSource(bandwidth: 1 << 20);
        Task<QemuSourceState> sending = source.RunAsync(hosted.Connect());
        await hosted.Guest.Running.Task.WaitAsync(s_patience);
        Assert.Equal((HealthStatus.Healthy, "The guest is on its way."), Of(await hosted.Health()));
        source.BreakConnection();
        Assert.Equal(QemuSourceState.PostcopyPaused, await sending);
        await Until(() => hosted.Receiver.Destination.State == PostcopyState.Paused);
        HealthReportEntry health = await hosted.Health();
        Assert.Equal(HealthStatus.Degraded, health.Status);
        Assert.Equal(1L, health.Data["lostConnections"]);
        source.BackgroundBandwidth = 0;
        Assert.Equal(QemuSourceState.Completed, await source.ResumeAsync(hosted.Connect()));
        _ = await hosted.Receiver.Completion.WaitAsync(s_patience);
        Assert.Equal(HealthStatus.Healthy, (await hosted.Health()).Status);
        Assert.Equal(1, hosted.Receiver.Statistics.LostConnections);
    }

    [Fact(Timeout = Limit)]
    public async Task APageThatStaysAwayIsDegraded()
    {
        await using HostedDestination hosted = new(o => o.StallAlarm = TimeSpan.FromMilliseconds(50));
        await hosted.Host.StartAsync();
        await using QemuSource source = hosted.NewSource(bandwidth: 1 << 20);
        Task<QemuSourceState> sending = source.RunAsync(hosted.Connect());
        await hosted.Guest.Running.Task.WaitAsync(s_patience);
        source.BreakConnection();
        _ = await sending;
        await Until(() => hosted.Receiver.Destination.State == PostcopyState.Paused);
        RamBlock ram = hosted.Receiver.Destination.Blocks.Blocks[0];
        Task touching = Task.Factory.StartNew(
            () =>
            {
                _ = hosted.Receiver.Destination.Blocktime!.AddVcpu(HostThread.CurrentId);
                ram.Read(HostedDestination.Ram - 4096, new byte[8]);
            },
            TaskCreationOptions.LongRunning);
        await Until(() => hosted.Health().Result.Data["oldestStallSeconds"] is > 0.05);
        source.BackgroundBandwidth = 0;
        Assert.Equal(QemuSourceState.Completed, await source.ResumeAsync(hosted.Connect()));
        await touching.WaitAsync(s_patience);
        _ = await hosted.Receiver.Completion.WaitAsync(s_patience);
        Assert.Equal(0.0, (await hosted.Health()).Data["oldestStallSeconds"]);
    }

    [Theory(Timeout = Limit)]
    [InlineData(false)]
    [InlineData(true)]
    public async Task AFailureIsUnhealthyAndStopsTheHostIfWanted(bool stop)
    {
        await using HostedDestination hosted = new(o => o.StopApplicationOnFailure = stop);
        await hosted.Host.StartAsync();
        await using QemuSource source = hosted.NewSource(bandwidth: 1 << 20, precopyPasses: 1);
        Task<QemuSourceState> sending = source.RunAsync(hosted.Connect());
        await Until(() => hosted.Receiver.Statistics.PrecopyPages > 0);
        source.BreakConnection();
        Assert.Equal(QemuSourceState.Failed, await sending);
        QemuIncomingException failure = await Assert.ThrowsAsync<QemuIncomingException>(() => hosted.Receiver.Completion.WaitAsync(s_patience));
        Assert.True(failure.SourceMayResume);
        Assert.Equal("failed", hosted.Guest.Steps.Last());
        Assert.Same(failure, hosted.Guest.Failure);
        HealthReportEntry health = await hosted.Health();
        Assert.Equal(HealthStatus.Unhealthy, health.Status);
        Assert.StartsWith("The migration failed: ", health.Description, StringComparison.Ordinal);
        IHostApplicationLifetime lifetime = hosted.Host.Services.GetRequiredService<IHostApplicationLifetime>();
        if (stop)
        {
            await Until(() => lifetime.ApplicationStopping.IsCancellationRequested);
        }
        else
        {
            Assert.False(lifetime.ApplicationStopping.IsCancellationRequested);
        }
    }

    [Fact(Timeout = Limit)]
    public async Task AHostThatStopsGivesTheMigrationUp()
    {
        await using HostedDestination hosted = new();
        await hosted.Host.StartAsync();
        await using QemuSource source = hosted.NewSource(bandwidth: 1 << 20);
        Task<QemuSourceState> sending = source.RunAsync(hosted.Connect());
        await hosted.Guest.Running.Task.WaitAsync(s_patience);
        await hosted.Host.StopAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => hosted.Receiver.Completion);
        Assert.NotEqual(QemuSourceState.Completed, await sending);
    }

    [Fact]
    public async Task OptionsAreCheckedBeforeTheHostStarts()
    {
        await using HostedDestination hosted = new(o =>
        {
            o.Listen = "tcp:somewhere:4444";
            o.SocketMode = "0o600";
            o.TlsKey = "/nowhere/key.pem";
            o.RecoverTimeout = TimeSpan.FromDays(8);
        });
        Exception e = await Assert.ThrowsAsync<Microsoft.Extensions.Options.OptionsValidationException>(() => hosted.Host.StartAsync());
        Assert.Equal(
            [
                "PostcopyHostingOptions: Listen is 'tcp:somewhere:4444'; give tcp:HOST:PORT with a numeric address (such as tcp:127.0.0.1:4444).",
                "PostcopyHostingOptions: SocketMode is '0o600'; give three octal digits, such as 600 or 660.",
                "PostcopyHostingOptions: TlsCertificate is missing; certificate and key are given together.",
                "PostcopyHostingOptions: TlsKey is '/nowhere/key.pem'; there is no such file that this process may see.",
                "PostcopyHostingOptions: RecoverTimeout is 8.00:00:00; it must be 00:00:00 to 7.00:00:00.",
            ],
            e.Message.Split("; PostcopyHostingOptions").Select((m, i) => i == 0 ? m : $"PostcopyHostingOptions{m}"));
    }

    [Fact]
    public async Task AnAddressThatIsTakenIsNamed()
    {
        await using HostedDestination first = new();
        await first.Host.StartAsync();
        await using HostedDestination second = new(o => o.Listen = $"unix:{first.Path}");
        Exception e = await Assert.ThrowsAsync<InvalidOperationException>(() => second.Host.StartAsync());
        Assert.StartsWith($"Listen is 'unix:{first.Path}', and cannot be listened on: ", e.Message, StringComparison.Ordinal);
    }

    [Fact(Timeout = Limit)]
    public async Task SeveralMachinesHaveNamesAndTheHostsMeter()
    {
        HashSet<string> machines = [];
        using MeterListener listener = new();
        HostApplicationBuilder builder = Host.CreateEmptyApplicationBuilder(new HostApplicationBuilderSettings());
        builder.Services.AddMetrics();
        foreach (string name in new[] { "vm1", "vm2" })
        {
            builder.Services.AddPostcopyDestination<TestGuest>(name, o => (o.Listen, o.AllowUserModeOnly) = ("tcp:127.0.0.1:0", true));
            builder.Services.AddHealthChecks().AddPostcopyDestination(name);
        }

        Assert.Throws<ArgumentException>(() => builder.Services.AddPostcopyDestination<TestGuest>("vm2", null));
        using IHost host = builder.Build();
        IMeterFactory factory = host.Services.GetRequiredService<IMeterFactory>();
        listener.InstrumentPublished = (instrument, l) =>
        {
            if (instrument.Meter.Scope == factory && instrument.Name == "postcopy.missing.pages")
            {
                l.EnableMeasurementEvents(instrument);
            }
        };
        listener.SetMeasurementEventCallback<long>((_, _, tags, _) =>
        {
            foreach (KeyValuePair<string, object?> tag in tags)
            {
                if (tag is { Key: "postcopy.vm", Value: string vm })
                {
                    _ = machines.Add(vm);
                }
            }
        });
        listener.Start();
        await host.StartAsync();
        List<QemuSource> sources = [];
        foreach (string name in new[] { "vm1", "vm2" })
        {
            PostcopyReceiver receiver = host.Services.GetRequiredKeyedService<PostcopyReceiver>(name);
            Assert.Equal(name, receiver.Name);
            QemuSource source = new(new PatternMemory(new SourceRamBlock("pc.ram", HostedDestination.Ram)), new QemuSourceOptions { BackgroundBandwidth = 1 << 20 });
            sources.Add(source);
            _ = source.RunAsync(HostedDestination.Connect(receiver.Address!));
            await ((TestGuest)host.Services.GetRequiredKeyedService<IPostcopyGuest>(name)).Running.Task.WaitAsync(s_patience);
        }

        listener.RecordObservableInstruments();
        Assert.Equal(["vm1", "vm2"], machines.Order());
        Assert.Equal(
            ["postcopy-vm1", "postcopy-vm2"],
            (await host.Services.GetRequiredService<HealthCheckService>().CheckHealthAsync()).Entries.Keys.Order());
        foreach (QemuSource source in sources)
        {
            await source.DisposeAsync();
        }
    }

    private static (HealthStatus Status, string? Description) Of(HealthReportEntry entry) => (entry.Status, entry.Description);

    private static async Task Until(Func<bool> condition)
    {
        for (long start = Environment.TickCount64; !condition(); await Task.Delay(5))
        {
            Assert.True(Environment.TickCount64 - start < s_patience.TotalMilliseconds, "It did not come to that.");
        }
    }
}
