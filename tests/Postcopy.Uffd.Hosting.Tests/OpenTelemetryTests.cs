using System.Diagnostics.Tracing;
using Microsoft.Extensions.DependencyInjection;
using OpenTelemetry.Metrics;
using OpenTelemetry.Trace;
using Postcopy.Uffd.Qemu;

namespace Postcopy.Uffd.Hosting.Tests;

/// <summary>What the OpenTelemetry SDK and dotnet-counters make of a migration.</summary>
public sealed class OpenTelemetryTests
{
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(40);

    [Fact(Timeout = 60_000)]
    public async Task TheSdkExportsMetricsAndTheTrace()
    {
        List<Metric> metrics = [];
        List<System.Diagnostics.Activity> activities = [];
        await using (HostedDestination hosted = new(services: services => services.AddOpenTelemetry()
            .WithMetrics(m => m.AddMeter("Postcopy.Uffd").AddInMemoryExporter(metrics))
            .WithTracing(t => t.AddSource("Postcopy.Uffd").AddInMemoryExporter(activities))))
        {
            await hosted.Host.StartAsync();
            await using QemuSource source = hosted.NewSource();
            Assert.Equal(QemuSourceState.Completed, await source.RunAsync(hosted.Connect()));
            _ = await hosted.Receiver.Completion.WaitAsync(s_patience);
            Assert.True(hosted.Host.Services.GetRequiredService<MeterProvider>().ForceFlush());
            Assert.True(hosted.Host.Services.GetRequiredService<TracerProvider>().ForceFlush());

            Metric placed = Assert.Single(metrics, m => m.Name == "postcopy.placed.bytes");
            Assert.Equal(("By", MetricType.LongSum), (placed.Unit, placed.MetricType));
            Dictionary<string, long> byMethod = [];
            foreach (ref readonly MetricPoint point in placed.GetMetricPoints())
            {
                foreach (KeyValuePair<string, object?> tag in point.Tags)
                {
                    if (tag.Key == "postcopy.placement.method")
                    {
                        byMethod[(string)tag.Value!] = point.GetSumLong();
                    }
                }
            }

            Assert.Equal(HostedDestination.Ram, byMethod.Values.Sum());
            Assert.True(byMethod["copy"] > byMethod["zeropage"] && byMethod["zeropage"] > 0);
            Assert.Contains(metrics, m => m is { Name: "postcopy.blocktime", Unit: "s" });
            System.Diagnostics.Activity activity = Assert.Single(activities);
            Assert.Equal("postcopy", activity.DisplayName);
            Assert.Equal(["postcopy.advise", "postcopy.listen", "postcopy.running", "postcopy.end"], activity.Events.Select(e => e.Name).Where(n => n != "postcopy.discard"));
            Assert.Equal(HostedDestination.Ram, activity.GetTagItem("postcopy.bytes"));
        }
    }

    /// <summary>dotnet-counters reads the runtime's event source of metrics; this does what it does.</summary>
    [Fact(Timeout = 60_000)]
    public async Task CountersAreSeenAsDotnetCountersSeesThem()
    {
        using CountersListener counters = new();
        await using HostedDestination hosted = new();
        await hosted.Host.StartAsync();
        await using QemuSource source = hosted.NewSource(bandwidth: 2 << 20);
        Task<QemuSourceState> sending = source.RunAsync(hosted.Connect());
        await hosted.Guest.Running.Task.WaitAsync(s_patience);
        await counters.Seen("postcopy.missing.bytes").WaitAsync(s_patience);
        await counters.Seen("postcopy.placed.bytes").WaitAsync(s_patience);
        source.BackgroundBandwidth = 0;
        Assert.Equal(QemuSourceState.Completed, await sending);
    }

    private sealed class CountersListener : EventListener
    {
        private readonly object _lock = new();
        private readonly Dictionary<string, TaskCompletionSource> _seen = [];
        private readonly string _session = Guid.NewGuid().ToString();

        internal Task Seen(string instrument)
        {
            lock (_lock)
            {
                return Of(instrument).Task;
            }
        }

        protected override void OnEventSourceCreated(EventSource eventSource)
        {
            if (eventSource.Name == "System.Diagnostics.Metrics")
            {
                const EventKeywords TimeSeriesValues = (EventKeywords)2;
                EnableEvents(eventSource, EventLevel.Informational, TimeSeriesValues, new Dictionary<string, string?>
                {
                    ["Metrics"] = "Postcopy.Uffd",
                    ["SessionId"] = _session,
                    ["RefreshInterval"] = "0.2",
                    ["MaxTimeSeries"] = "1000",
                    ["MaxHistograms"] = "10",
                });
            }
        }

        protected override void OnEventWritten(EventWrittenEventArgs eventData)
        {
            // sessionId, meterName, meterVersion, instrumentName, ...
            if (eventData.EventName is "CounterRateValuePublished" or "UpDownCounterRateValuePublished" or "GaugeValuePublished" && eventData.Payload is [_, "Postcopy.Uffd", _, string name, ..])
            {
                lock (_lock)
                {
                    _ = Of(name).TrySetResult();
                }
            }
        }

        private TaskCompletionSource Of(string instrument)
        {
            if (!_seen.TryGetValue(instrument, out TaskCompletionSource? seen))
            {
                _seen[instrument] = seen = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
            }

            return seen;
        }
    }
}
