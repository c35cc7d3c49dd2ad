using System.Diagnostics.Metrics;
using System.Globalization;
using System.Runtime.CompilerServices;

namespace Postcopy.Uffd;

/// <summary>
/// The instruments of meter <c>Postcopy.Uffd</c>, one set per <see cref="Meter"/>, over all destinations that serve.
/// </summary>
/// <remarks>
/// Implementation notes. Every instrument is observable: a collection reads the padded counters, bitmaps and slots that are
/// there anyway, on the collector's thread, and the fault thread does nothing for it. So the latency distribution cannot be a
/// Histogram, which must be told of each fault: it is three counters instead, in the shape of a Prometheus histogram.
/// </remarks>
internal sealed class PostcopyMetrics
{
    internal const string MeterName = "Postcopy.Uffd";

    private static readonly ConditionalWeakTable<Meter, PostcopyMetrics> s_all = new();
    private static readonly Meter s_meter = new(MeterName);
    private static readonly string[] s_upperBounds = MakeUpperBounds();

    private readonly Lock _lock = new();
    private readonly List<PostcopyDestination> _destinations = [];

    private PostcopyMetrics(Meter meter)
    {
        CreateFaults(meter);
        CreatePlacement(meter);
        CreateBlocktime(meter);
    }

    /// <summary>The instruments of this meter; null is the process's own.</summary>
    internal static PostcopyMetrics Of(Meter? meter) => s_all.GetValue(meter ?? s_meter, static m => new PostcopyMetrics(m));

    internal void Attach(PostcopyDestination destination)
    {
        lock (_lock)
        {
            _destinations.Add(destination);
        }
    }

    internal void Detach(PostcopyDestination destination)
    {
        lock (_lock)
        {
            _ = _destinations.Remove(destination);
        }
    }

    // The upper bound of each bucket in seconds, as Prometheus' "le" has it.
    private static string[] MakeUpperBounds()
    {
        string[] bounds = new string[LatencyHistogram.CoarseBuckets];
        for (int i = 0; i < bounds.Length - 1; i++)
        {
            bounds[i] = ((2L << i) / 1e6).ToString("R", CultureInfo.InvariantCulture);
        }

        bounds[^1] = "+Inf";
        return bounds;
    }

    private static Measurement<T> Make<T>(PostcopyDestination d, T value, string? key = null, object? attribute = null)
        where T : struct
    {
        List<KeyValuePair<string, object?>> tags = [];
        if (d.Name is { } name)
        {
            tags.Add(new("postcopy.vm", name));
        }

        if (key is not null)
        {
            tags.Add(new(key, attribute));
        }

        return new Measurement<T>(value, tags);
    }

    private IEnumerable<Measurement<long>> Each(Func<PostcopyDestination, long> read) => EachMany<long>(d => [Make(d, read(d))]);

    private IEnumerable<Measurement<T>> EachReport<T>(Func<PostcopyDestination, BlocktimeReport, IEnumerable<Measurement<T>>> read)
        where T : struct =>
        EachMany(d => d.Blocktime is { } blocktime ? read(d, blocktime.Snapshot(blocktime.Now(), timeline: false)) : []);

    // Under the lock and not lazily: once Detach is back, nobody reads a destination whose memory may be freed.
    private IEnumerable<Measurement<T>> EachMany<T>(Func<PostcopyDestination, IEnumerable<Measurement<T>>> read)
        where T : struct
    {
        lock (_lock)
        {
            return [.. _destinations.SelectMany(read)];
        }
    }

    private void CreateFaults(Meter meter)
    {
        _ = meter.CreateObservableCounter("postcopy.faults", () => Each(d => d.Faults.Messages), "{fault}", "Pagefault messages read.");
        _ = meter.CreateObservableCounter("postcopy.faults.duplicate", () => Each(d => d.Faults.Duplicates), "{fault}", "Messages about a page that was asked for already.");
        _ = meter.CreateObservableCounter("postcopy.faults.already_received", () => Each(d => d.Faults.AlreadyReceived), "{fault}", "Messages about a page that was placed meanwhile.");
        _ = meter.CreateObservableCounter("postcopy.faults.zero_filled", () => Each(d => d.Faults.ZeroFilled), "{page}", "Thrown-away pages given back as zeros.");
        _ = meter.CreateObservableCounter("postcopy.faults.parked", () => Each(d => d.Faults.Parked), "{fault}", "Zero-fills that had to wait for the address space to settle.");
        _ = meter.CreateObservableCounter("postcopy.requests", () => Each(d => d.Faults.Requests), "{page}", "Pages asked for at the source because a thread touched them.");
        _ = meter.CreateObservableCounter("postcopy.requests.refused", () => Each(d => d.Faults.RequesterBusy), "{request}", "Times the link had no room for a request.");
        _ = meter.CreateObservableUpDownCounter("postcopy.requests.active", () => Each(d => d.CountOpenRequests()), "{page}", "Pages asked for and not there yet.");
    }

    private void CreatePlacement(Meter meter)
    {
        _ = meter.CreateObservableCounter("postcopy.placed.bytes", () => EachMany(PlacedBytes), "By", "Bytes placed, by method.");
        _ = meter.CreateObservableCounter("postcopy.placed.pages", () => EachMany(PlacedPages), "{page}", "Pages placed, by method.");
        _ = meter.CreateObservableCounter("postcopy.placements", () => Each(d => d.Placer.Statistics.Operations), "{operation}", "Placing ioctls that did something.");
        _ = meter.CreateObservableCounter("postcopy.placements.awaited", () => Each(d => d.Placer.Statistics.AwaitedPlacements), "{operation}", "Placements that somebody waited for.");
        _ = meter.CreateObservableUpDownCounter("postcopy.missing.pages", () => Each(d => d.Blocks.Blocks.Sum(b => b.MissingPages)), "{page}", "Pages that are still missing.");
        _ = meter.CreateObservableUpDownCounter("postcopy.missing.bytes", () => Each(d => d.Blocks.MissingBytes), "By", "Bytes that are still missing.");
        _ = meter.CreateObservableGauge("postcopy.source.rate", () => EachMany<double>(d => [Make(d, d.Rate.BytesPerSecond)]), "By/s", "Bytes placed per second, over the last second or so.");
    }

    private void CreateBlocktime(Meter meter)
    {
        _ = meter.CreateObservableCounter("postcopy.blocktime", () => EachReport<double>((d, r) => [Make(d, r.TotalNanoseconds / 1e9)]), "s", "How long all vCPUs stood still at once.");
        _ = meter.CreateObservableCounter("postcopy.vcpu.blocktime", () => EachReport<double>((d, r) => r.Vcpus.Select(v => Make(d, v.BlocktimeNanoseconds / 1e9, "postcopy.vcpu", v.Slot))), "s", "How long each vCPU stood still.");
        _ = meter.CreateObservableUpDownCounter("postcopy.vcpus.blocked", () => EachReport<long>((d, r) => [Make<long>(d, r.OpenStalls.Where(s => s.Slot >= 0).Select(s => s.Slot).Distinct().Count())]), "{vcpu}", "vCPUs that stand still now.");
        _ = meter.CreateObservableUpDownCounter("postcopy.stalls.open", () => EachReport<long>((d, r) => [Make<long>(d, r.OpenStalls.Count)]), "{stall}", "Stalls that are open now, of vCPUs and of other threads.");
        _ = meter.CreateObservableGauge("postcopy.stalls.oldest", () => EachReport<double>((d, r) => [Make(d, r.OpenStalls.Count == 0 ? 0.0 : Math.Max(0, r.At - r.OpenStalls[0].Since) / 1e9)]), "s", "How long the oldest open stall has lasted.");
        _ = meter.CreateObservableCounter("postcopy.fault.duration.bucket", () => EachReport<long>(Buckets), "{fault}", "Faults that took at most le seconds.");
        _ = meter.CreateObservableCounter("postcopy.fault.duration.sum", () => EachReport<double>((d, r) => [Make(d, r.Latency.SumNanoseconds / 1e9)]), "s", "How long faults took, added up.");
        _ = meter.CreateObservableCounter("postcopy.fault.duration.count", () => EachReport<long>((d, r) => [Make(d, r.Latency.Count)]), "{fault}", "Faults that are over.");
    }

    private static IEnumerable<Measurement<long>> PlacedBytes(PostcopyDestination d)
    {
        PlacementStatistics placed = d.Placer.Statistics;
        return ByMethod(d, placed.CopiedBytes, placed.ZeroBytes, placed.ContinuedBytes, placed.MovedBytes);
    }

    private static IEnumerable<Measurement<long>> PlacedPages(PostcopyDestination d)
    {
        PlacementStatistics placed = d.Placer.Statistics;
        return ByMethod(d, placed.CopiedPages, placed.ZeroPages, placed.ContinuedPages, placed.MovedPages);
    }

    private static IEnumerable<Measurement<long>> ByMethod(PostcopyDestination d, long copied, long zero, long continued, long moved)
    {
        const string Method = "postcopy.placement.method";
        return [Make(d, copied, Method, "copy"), Make(d, zero, Method, "zeropage"), Make(d, continued, Method, "continue"), Make(d, moved, Method, "move")];
    }

    private static IEnumerable<Measurement<long>> Buckets(PostcopyDestination d, BlocktimeReport report)
    {
        long sum = 0;
        for (int i = 0; i < s_upperBounds.Length; i++)
        {
            sum += report.Latency.Distribution[i];
            yield return Make(d, sum, "le", s_upperBounds[i]);
        }
    }
}
