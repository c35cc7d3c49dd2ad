using System.Text;
using System.Text.Json;

namespace Postcopy.Uffd;

// Written by hand: no reflection, so it survives trimming and ahead-of-time compilation.
public sealed partial class BlocktimeReport
{
    /// <summary>The name of the member that holds what QEMU has no member for.</summary>
    public const string DetailMember = "postcopy-uffd";

    /// <summary>The report as a JSON object with the member names of QEMU's query-migrate, and our own figures in one member beside them.</summary>
    /// <param name="indented">Whether to break lines.</param>
    /// <returns>The text.</returns>
    public string ToJson(bool indented = false)
    {
        using MemoryStream stream = new();
        using (Utf8JsonWriter writer = new(stream, new JsonWriterOptions { Indented = indented }))
        {
            writer.WriteStartObject();
            WriteJson(writer);
            writer.WriteEndObject();
        }

        return Encoding.UTF8.GetString(stream.GetBuffer(), 0, (int)stream.Length);
    }

    /// <summary>Writes the members into the object that the caller has opened, so that they can stand beside others of query-migrate.</summary>
    /// <param name="writer">The writer, within an object.</param>
    /// <exception cref="ArgumentNullException">The writer is null.</exception>
    public void WriteJson(Utf8JsonWriter writer)
    {
        ArgumentNullException.ThrowIfNull(writer);
        writer.WriteNumber("postcopy-blocktime", Milliseconds(TotalNanoseconds));
        WriteList(writer, "postcopy-vcpu-blocktime", static v => Milliseconds(v.BlocktimeNanoseconds));
        writer.WriteNumber("postcopy-latency", Latency.MeanNanoseconds);
        writer.WriteStartArray("postcopy-latency-dist");
        foreach (long count in Latency.Distribution)
        {
            writer.WriteNumberValue(count);
        }

        writer.WriteEndArray();
        WriteList(writer, "postcopy-vcpu-latency", static v => v.MeanLatencyNanoseconds);
        writer.WriteNumber("postcopy-non-vcpu-latency", OtherLatency.MeanNanoseconds);
        writer.WriteStartObject(DetailMember);
        WriteDetail(writer);
        writer.WriteEndObject();
    }

    // QEMU's type for these is a 32-bit number of whole milliseconds.
    private static long Milliseconds(long nanoseconds) => nanoseconds / 1_000_000;

    private void WriteList(Utf8JsonWriter writer, string name, Func<VcpuBlocktime, long> value)
    {
        writer.WriteStartArray(name);
        foreach (VcpuBlocktime vcpu in Vcpus)
        {
            writer.WriteNumberValue(value(vcpu));
        }

        writer.WriteEndArray();
    }

    private void WriteDetail(Utf8JsonWriter writer)
    {
        writer.WriteNumber("at-ns", At);
        writer.WriteNumber("blocktime-ns", TotalNanoseconds);
        writer.WriteNumber("link-up-ns", TotalLinkUpNanoseconds);
        writer.WriteNumber("link-down-ns", TotalLinkDownNanoseconds);
        writer.WriteNumber("error-bound-ns", ErrorBoundNanoseconds);
        writer.WriteNumber("reading-excess-ns", ReadingExcessNanoseconds);
        writer.WriteNumber("duplicates", Duplicates);
        writer.WriteNumber("cancelled", Cancelled);
        writer.WriteNumber("unresolved", Unresolved);
        writer.WriteNumber("untracked", Untracked);
        writer.WriteNumber("other-unresolved", OtherUnresolved);
        writer.WriteNumber("other-overflow", OtherOverflow);
        WriteLatency(writer, "latency", Latency);
        WriteLatency(writer, "vcpu-latency", VcpuLatency);
        WriteLatency(writer, "other-latency", OtherLatency);
        WriteDelay(writer, "reader-delay", ReaderDelay);
        WriteDelay(writer, "stamp-delay", StampDelay);
        WriteVcpus(writer);
        WriteOpen(writer);
        WriteTimeline(writer);
    }

    private static void WriteLatency(Utf8JsonWriter writer, string name, LatencySummary latency)
    {
        writer.WriteStartObject(name);
        writer.WriteNumber("count", latency.Count);
        writer.WriteNumber("mean-ns", latency.MeanNanoseconds);
        writer.WriteNumber("p50-ns", latency.P50Nanoseconds);
        writer.WriteNumber("p90-ns", latency.P90Nanoseconds);
        writer.WriteNumber("p99-ns", latency.P99Nanoseconds);
        writer.WriteNumber("max-ns", latency.MaxNanoseconds);
        writer.WriteEndObject();
    }

    private static void WriteDelay(Utf8JsonWriter writer, string name, DelaySummary delay)
    {
        writer.WriteStartObject(name);
        writer.WriteNumber("count", delay.Count);
        writer.WriteNumber("mean-ns", delay.MeanNanoseconds);
        writer.WriteNumber("max-ns", delay.MaxNanoseconds);
        writer.WriteEndObject();
    }

    private void WriteVcpus(Utf8JsonWriter writer)
    {
        writer.WriteStartArray("vcpus");
        foreach (VcpuBlocktime vcpu in Vcpus)
        {
            writer.WriteStartObject();
            writer.WriteNumber("slot", vcpu.Slot);
            writer.WriteNumber("thread-id", vcpu.ThreadId);
            if (vcpu.Name is not null)
            {
                writer.WriteString("name", vcpu.Name);
            }

            writer.WriteBoolean("removed", vcpu.Removed);
            writer.WriteNumber("blocktime-ns", vcpu.BlocktimeNanoseconds);
            writer.WriteNumber("link-up-ns", vcpu.LinkUpNanoseconds);
            writer.WriteNumber("link-down-ns", vcpu.LinkDownNanoseconds);
            writer.WriteNumber("overlap-ns", vcpu.OverlapNanoseconds);
            writer.WriteNumber("episodes", vcpu.Episodes);
            writer.WriteNumber("mean-latency-ns", vcpu.MeanLatencyNanoseconds);
            writer.WriteNumber("max-latency-ns", vcpu.MaxLatencyNanoseconds);
            writer.WriteNumber("moved-on", vcpu.MovedOn);
            writer.WriteNumber("left-guest", vcpu.LeftGuest);
            writer.WriteNumber("unresolved", vcpu.Unresolved);
            writer.WriteNumber("duplicates", vcpu.Duplicates);
            writer.WriteEndObject();
        }

        writer.WriteEndArray();
    }

    private void WriteOpen(Utf8JsonWriter writer)
    {
        writer.WriteStartArray("open-stalls");
        foreach (OpenStall stall in OpenStalls)
        {
            writer.WriteStartObject();
            writer.WriteNumber("slot", stall.Slot);
            writer.WriteNumber("thread-id", stall.ThreadId);
            writer.WriteNumber("page", stall.Page);
            writer.WriteNumber("since-ns", stall.Since);
            writer.WriteEndObject();
        }

        writer.WriteEndArray();
    }

    // Triples of slot, start and end: thousands of intervals stay readable for machines and small.
    private void WriteTimeline(Utf8JsonWriter writer)
    {
        writer.WriteNumber("timeline-dropped", TimelineDropped);
        writer.WriteStartArray("timeline");
        foreach (BlockedInterval interval in Timeline)
        {
            writer.WriteStartArray();
            writer.WriteNumberValue(interval.Slot);
            writer.WriteNumberValue(interval.Start);
            writer.WriteNumberValue(interval.End);
            writer.WriteEndArray();
        }

        writer.WriteEndArray();
    }
}
