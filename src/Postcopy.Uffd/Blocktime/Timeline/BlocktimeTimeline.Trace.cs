using System.Text.Json;

namespace Postcopy.Uffd;

// The format is described in "Trace Event Format", docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU:
// times are microseconds, "X" is a complete event, "C" a counter, "M" says what a process or thread is called.
public sealed partial class BlocktimeTimeline
{
    private const int ProcessId = 1;
    private const int OverlapLane = 0;

    // Beyond so many changes the counter of blocked vCPUs is drawn as means over equal columns.
    private const int ExactChanges = 100_000;
    private const int CounterColumns = 20_000;
    private const int FlushAt = 1 << 16;

    /// <summary>
    /// Writes the trace event JSON that chrome://tracing and ui.perfetto.dev open: a lane per vCPU with its blocked
    /// intervals, one with their overlap, and counters of blocked vCPUs and of the placement rate. About 85 bytes an interval.
    /// </summary>
    /// <param name="utf8">Where to; stays open.</param>
    /// <exception cref="ArgumentNullException">The stream is null.</exception>
    /// <exception cref="IOException">The stream cannot be written.</exception>
    public void WriteTrace(Stream utf8)
    {
        ArgumentNullException.ThrowIfNull(utf8);
        using Utf8JsonWriter writer = new(utf8);
        writer.WriteStartObject();
        writer.WriteString("displayTimeUnit", "ms");
        writer.WriteStartArray("traceEvents");
        WriteNames(writer);
        foreach (OverlapInterval overlap in Report.Overlaps)
        {
            WriteComplete(writer, "all blocked", OverlapLane, overlap.Start, overlap.End, open: false);
        }

        foreach (BlockedInterval interval in Report.Timeline)
        {
            WriteComplete(writer, "blocked", interval.Slot + 1, interval.Start, interval.End, interval.Open);
        }

        WriteBlockedCounter(writer);
        for (int i = 1; i < Placement.Count; i++)
        {
            double rate = (Placement[i].Bytes - Placement[i - 1].Bytes) * 1e9 / (Placement[i].At - Placement[i - 1].At);
            WriteCounter(writer, "placement rate", "bytes per second", Placement[i - 1].At, Math.Round(rate));
        }

        if (Placement.Count > 1)
        {
            WriteCounter(writer, "placement rate", "bytes per second", Placement[Placement.Count - 1].At, 0);
        }

        writer.WriteEndArray();
        writer.WriteStartObject("otherData");
        writer.WriteString("title", _title);
        writer.WriteNumber("blocktime-ns", Report.TotalNanoseconds);
        writer.WriteNumber("intervals-not-kept", Report.TimelineDropped);
        writer.WriteEndObject();
        writer.WriteEndObject();
    }

    private static void WriteName(Utf8JsonWriter writer, string kind, int lane, string name)
    {
        StartEvent(writer, kind, "M", lane);
        writer.WriteStartObject("args");
        writer.WriteString("name", name);
        writer.WriteEndObject();
        writer.WriteEndObject();
    }

    private static void StartEvent(Utf8JsonWriter writer, string name, string phase, int lane)
    {
        if (writer.BytesPending > FlushAt)
        {
            writer.Flush();
        }

        writer.WriteStartObject();
        writer.WriteString("name", name);
        writer.WriteString("ph", phase);
        writer.WriteNumber("pid", ProcessId);
        writer.WriteNumber("tid", lane);
    }

    private void WriteNames(Utf8JsonWriter writer)
    {
        WriteName(writer, "process_name", OverlapLane, _title);
        WriteName(writer, "thread_name", OverlapLane, "all vCPUs at once");
        foreach (VcpuBlocktime vcpu in Report.Vcpus)
        {
            WriteName(writer, "thread_name", vcpu.Slot + 1, LaneName(vcpu));
            StartEvent(writer, "thread_sort_index", "M", vcpu.Slot + 1);
            writer.WriteStartObject("args");
            writer.WriteNumber("sort_index", vcpu.Slot + 1);
            writer.WriteEndObject();
            writer.WriteEndObject();
        }
    }

    private void WriteComplete(Utf8JsonWriter writer, string name, int lane, long start, long end, bool open)
    {
        StartEvent(writer, name, "X", lane);
        writer.WriteString("cat", "blocktime");
        writer.WriteNumber("ts", Microseconds(start));
        writer.WriteNumber("dur", (end - start) / 1000m);
        if (open)
        {
            writer.WriteStartObject("args");
            writer.WriteBoolean("open", true);
            writer.WriteEndObject();
        }

        writer.WriteEndObject();
    }

    private decimal Microseconds(long at) => (at - Start) / 1000m;

    private void WriteCounter(Utf8JsonWriter writer, string name, string series, long at, double value)
    {
        StartEvent(writer, name, "C", OverlapLane);
        writer.WriteNumber("ts", Microseconds(at));
        writer.WriteStartObject("args");
        writer.WriteNumber(series, value);
        writer.WriteEndObject();
        writer.WriteEndObject();
    }

    private void WriteBlockedCounter(Utf8JsonWriter writer)
    {
        const string Name = "blocked vCPUs";
        if (Report.Timeline.Count * 2L > ExactChanges)
        {
            TimeColumns columns = new(Start, End, CounterColumns);
            foreach (BlockedInterval interval in Report.Timeline)
            {
                columns.Add(interval.Start, interval.End);
            }

            for (int i = 0; i < columns.Count; i++)
            {
                WriteCounter(writer, Name, "vCPUs", Start + (long)(i * columns.Width), Math.Round(columns[i], 3));
            }

            return;
        }

        long[] starts = new long[Report.Timeline.Count];
        long[] ends = new long[starts.Length];
        for (int i = 0; i < starts.Length; i++)
        {
            starts[i] = Report.Timeline[i].Start;
            ends[i] = Report.Timeline[i].End;
        }

        Array.Sort(starts);
        Array.Sort(ends);
        int started = 0;
        for (int ended = 0; ended < ends.Length;)
        {
            // All changes of one moment are one event: a vCPU that goes from one page to the next is no change.
            long at = started < starts.Length ? Math.Min(starts[started], ends[ended]) : ends[ended];
            int before = started - ended;
            for (; started < starts.Length && starts[started] == at; started++)
            {
            }

            for (; ended < ends.Length && ends[ended] == at; ended++)
            {
            }

            if (started - ended != before)
            {
                WriteCounter(writer, Name, "vCPUs", at, started - ended);
            }
        }
    }
}
