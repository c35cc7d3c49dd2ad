using System.Collections.Concurrent;
using System.Diagnostics.Metrics;
using System.Globalization;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Destination;

/// <summary>The meter as a listener such as dotnet-counters sees it, on real faults.</summary>
public sealed class MetricsTests
{
    private const int Limit = 60_000;

    [Fact(Timeout = Limit)]
    public async Task EveryInstrumentShowsWhatHappened()
    {
        await Task.Yield();
        using Meter meter = new("Postcopy.Uffd");
        using Reading reading = new(meter);
        using DestinationBench bench = new(pages: 8, new PostcopyOptions { Meter = meter, Name = "vm-1", Blocktime = new BlocktimeOptions() });
        using ManualResetEventSlim isMember = new();
        FaultingThread vcpu = bench.Run(() =>
        {
            _ = bench.Destination.Blocktime!.AddVcpu(HostThread.CurrentId);
            isMember.Wait();
            return FaultingThread.ReadByte(bench.Block.HostAddress);
        });
        isMember.Set();
        _ = bench.Requester.Take();
        Deadline.Until(() => bench.Destination.Blocktime!.TryGetOldestStall(out _), "the stall is confirmed");

        reading.Take();
        Assert.Equal(1, reading["postcopy.vcpus.blocked"]);
        Assert.Equal(1, reading["postcopy.stalls.open"]);

        // The other threads' faults are duplicates: one request, three stalls, of which one is a vCPU's.
        FaultingThread other = bench.Read(0);
        Deadline.Until(() => bench.Destination.Faults.Duplicates == 1, "the duplicate is counted");
        FaultingThread third = bench.Read(0);
        Deadline.Until(() => bench.Destination.Faults.Duplicates == 2 && bench.Destination.Blocktime!.Snapshot().OpenStalls.Count == 3, "the third stall is open");
        reading.Take();
        Assert.Equal(3, reading["postcopy.faults"]);
        Assert.Equal(2, reading["postcopy.faults.duplicate"]);
        Assert.Equal(0, reading["postcopy.faults.already_received"]);
        Assert.Equal(0, reading["postcopy.faults.zero_filled"]);
        Assert.Equal(0, reading["postcopy.faults.parked"]);
        Assert.Equal(1, reading["postcopy.requests"]);
        Assert.Equal(0, reading["postcopy.requests.refused"]);
        Assert.Equal(1, reading["postcopy.requests.active"]);
        Assert.Equal(1, reading["postcopy.vcpus.blocked"]);
        Assert.Equal(3, reading["postcopy.stalls.open"]);
        Assert.True(reading["postcopy.stalls.oldest"] > 0);
        Assert.Equal(8, reading["postcopy.missing.pages"]);
        Assert.Equal(8 * 4096, reading["postcopy.missing.bytes"]);
        Assert.Equal(0, reading["postcopy.fault.duration.count"]);

        _ = bench.Place(0);
        _ = vcpu.Result;
        _ = other.Result;
        _ = third.Result;
        Assert.True(bench.Destination.Placer.PlaceZero(bench.Block, 4096, 2 * 4096).IsReceived);
        Deadline.Until(() => bench.Destination.Rate.BytesPerSecond > 0, "the first second is over");
        reading.Take();
        Assert.Equal(4096, reading["postcopy.placed.bytes", "copy"]);
        Assert.Equal(2 * 4096, reading["postcopy.placed.bytes", "zeropage"]);
        Assert.Equal(0, reading["postcopy.placed.bytes", "continue"]);
        Assert.Equal(1, reading["postcopy.placed.pages", "copy"]);
        Assert.Equal(2, reading["postcopy.placed.pages", "zeropage"]);
        Assert.Equal(0, reading["postcopy.placed.pages", "continue"]);
        Assert.Equal(bench.Destination.Placer.Statistics.Operations, reading["postcopy.placements"]);
        Assert.Equal(1, reading["postcopy.placements.awaited"]);
        Assert.True(reading["postcopy.source.rate"] > 0);
        Assert.Equal(5, reading["postcopy.missing.pages"]);
        Assert.Equal(5 * 4096, reading["postcopy.missing.bytes"]);
        Assert.Equal(0, reading["postcopy.requests.active"]);
        Assert.Equal(0, reading["postcopy.vcpus.blocked"]);
        Assert.Equal(0, reading["postcopy.stalls.open"]);
        Assert.Equal(0, reading["postcopy.stalls.oldest"]);

        BlocktimeReport report = bench.Destination.Blocktime!.Snapshot();
        Assert.Equal(report.TotalNanoseconds / 1e9, reading["postcopy.blocktime"], 1e-9);
        Assert.Equal(report.Vcpus[0].BlocktimeNanoseconds / 1e9, reading["postcopy.vcpu.blocktime", 0], 1e-9);
        Assert.True(reading["postcopy.blocktime"] > 0);
        Assert.Equal(3, reading["postcopy.fault.duration.count"]);
        Assert.Equal(report.Latency.SumNanoseconds / 1e9, reading["postcopy.fault.duration.sum"], 1e-9);
        Assert.True(reading["postcopy.fault.duration.sum"] >= reading["postcopy.blocktime"]);
        Assert.Equal(3, reading["postcopy.fault.duration.bucket", "+Inf"]);
        double longest = report.Latency.MaxNanoseconds / 1e9;
        foreach (((string Name, object? Attribute) key, double value) in reading.Values.Where(v => v.Key.Name == "postcopy.fault.duration.bucket" && !Equals(v.Key.Attribute, "+Inf")))
        {
            bool holdsAll = double.Parse((string)key.Attribute!, CultureInfo.InvariantCulture) > longest;
            Assert.Equal(holdsAll, value == 3);
        }
    }

    [Fact(Timeout = Limit)]
    public async Task TheInstrumentsAreThoseOfTheDocumentation()
    {
        await Task.Yield();
        using Meter meter = new("Postcopy.Uffd");
        using Reading reading = new(meter);
        using (DestinationBench bench = new(pages: 4, new PostcopyOptions { Meter = meter, Name = "vm-1", Blocktime = new BlocktimeOptions() }))
        {
            reading.Take();
            Assert.NotEmpty(reading.Values);
        }

        reading.Take();
        Assert.Empty(reading.Values);
        string[] documented = [.. RepositoryFile.Lines("docs", "observability.md").Where(l => l.StartsWith("| `postcopy.", StringComparison.Ordinal))
            .Select(l => l.Split('|')).Where(c => c.Length == 6).Select(c => $"{c[1].Trim()} {c[2].Trim()} {c[3].Trim()}")];
        string[] made = [.. reading.Instruments.Select(i => $"`{i.Name}` {i.GetType().Name.Replace("Observable", "", StringComparison.Ordinal).Split('`')[0]} `{i.Unit}`")];
        Assert.Equal(made.Order(StringComparer.Ordinal), documented.Order(StringComparer.Ordinal));
    }

    private sealed class Reading : IDisposable
    {
        private readonly MeterListener _listener = new();

        internal Reading(Meter meter)
        {
            _listener.InstrumentPublished = (instrument, listener) =>
            {
                if (ReferenceEquals(instrument.Meter, meter))
                {
                    Instruments.Add(instrument);
                    listener.EnableMeasurementEvents(instrument);
                }
            };
            _listener.SetMeasurementEventCallback<long>((i, value, tags, _) => Note(i, value, tags));
            _listener.SetMeasurementEventCallback<double>((i, value, tags, _) => Note(i, value, tags));
            _listener.Start();
        }

        internal List<Instrument> Instruments { get; } = [];

        internal ConcurrentDictionary<(string Name, object? Attribute), double> Values { get; } = new();

        internal double this[string name, object? attribute = null] => Values[(name, attribute)];

        internal void Take()
        {
            Values.Clear();
            _listener.RecordObservableInstruments();
        }

        public void Dispose() => _listener.Dispose();

        private void Note(Instrument instrument, double value, ReadOnlySpan<KeyValuePair<string, object?>> tags)
        {
            Assert.Equal("postcopy.vm", tags[0].Key);
            Assert.Equal("vm-1", tags[0].Value);
            Assert.True(Values.TryAdd((instrument.Name, tags.Length > 1 ? tags[1].Value : null), value));
        }
    }
}
