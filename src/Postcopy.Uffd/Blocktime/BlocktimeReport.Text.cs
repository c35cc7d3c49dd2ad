using System.Globalization;
using System.Text;

namespace Postcopy.Uffd;

public sealed partial class BlocktimeReport
{
    private const int RowLimit = 64;
    private const int BarWidth = 40;

    /// <summary>The report for people: at most 80 columns, lines end with a line feed.</summary>
    /// <returns>The text.</returns>
    public string ToText()
    {
        StringBuilder text = new();
        WriteHead(text);
        WriteTable(text);
        WriteLatencies(text);
        WriteBars(text);
        WriteOpen(text);
        WriteNotes(text);
        return text.ToString();
    }

    /// <inheritdoc/>
    public override string ToString() => ToText();

    private static void Line(StringBuilder text, FormattableString line) => text.Append(line.ToString(CultureInfo.InvariantCulture)).Append('\n');

    // Four digits at most before the unit: a column of times reads at a glance.
    internal static string Time(long nanoseconds)
    {
        (double value, string unit) = nanoseconds switch
        {
            < 1_000 => (nanoseconds, "ns"),
            < 1_000_000 => (nanoseconds / 1e3, "us"),
            < 10_000_000_000 => (nanoseconds / 1e6, "ms"),
            _ => (nanoseconds / 1e9, "s"),
        };
        string digits = unit == "ns" ? "0" : value < 10 ? "0.00" : value < 100 ? "0.0" : "0";
        return value.ToString(digits, CultureInfo.InvariantCulture) + " " + unit;
    }

    private void WriteHead(StringBuilder text)
    {
        int members = 0;
        foreach (VcpuBlocktime vcpu in Vcpus)
        {
            members += vcpu.Removed ? 0 : 1;
        }

        Line(text, $"Postcopy blocktime, {members} vCPU{(members == 1 ? "" : "s")}");
        Line(text, $"  all vCPUs blocked at once   {Time(TotalNanoseconds),9}");
        if (TotalLinkDownNanoseconds > 0)
        {
            Line(text, $"    with the link up          {Time(TotalLinkUpNanoseconds),9}");
            Line(text, $"    with the link down        {Time(TotalLinkDownNanoseconds),9}");
        }

        Line(text, $"  fault episodes              {VcpuLatency.Count,9}   repeated messages {Duplicates}");
        Line(text, $"  page was already there      {Cancelled,9}   open now          {OpenStalls.Count}");
        if (Unresolved + OtherUnresolved > 0)
        {
            Line(text, $"  unresolved when abandoned   {Unresolved + OtherUnresolved,9}");
        }
    }

    private void WriteTable(StringBuilder text)
    {
        if (Vcpus.Count == 0)
        {
            return;
        }

        bool down = TotalLinkDownNanoseconds > 0;
        foreach (VcpuBlocktime vcpu in Vcpus)
        {
            down |= vcpu.LinkDownNanoseconds > 0;
        }

        text.Append('\n');
        Line(text, $"  {"vCPU",-10}{"blocked",10}{(down ? "link down" : ""),10}{"overlap",10}{"episodes",10}{"mean",10}{"longest",10}");
        for (int i = 0; i < Math.Min(Vcpus.Count, RowLimit); i++)
        {
            VcpuBlocktime vcpu = Vcpus[i];
            string name = vcpu.Name ?? vcpu.Slot.ToString(CultureInfo.InvariantCulture);
            name = (name.Length > 9 ? name.Substring(0, 9) : name) + (vcpu.Removed ? "-" : "");
            Line(text, $"  {name,-10}{Time(vcpu.BlocktimeNanoseconds),10}{(down ? Time(vcpu.LinkDownNanoseconds) : ""),10}{Time(vcpu.OverlapNanoseconds),10}{vcpu.Episodes,10}{Time(vcpu.MeanLatencyNanoseconds),10}{Time(vcpu.MaxLatencyNanoseconds),10}");
        }

        if (Vcpus.Count > RowLimit)
        {
            Line(text, $"  ... and {Vcpus.Count - RowLimit} more");
        }
    }

    private void WriteLatencies(StringBuilder text)
    {
        text.Append('\n');
        Line(text, $"  {"latency",-16}{"faults",9}{"mean",10}{"p50",10}{"p90",10}{"p99",10}{"longest",10}");
        WriteLatencyRow(text, "vCPUs", VcpuLatency);
        if (OtherLatency.Count > 0)
        {
            WriteLatencyRow(text, "other threads", OtherLatency);
        }
    }

    private static void WriteLatencyRow(StringBuilder text, string name, LatencySummary l) =>
        Line(text, $"  {name,-16}{l.Count,9}{Time(l.MeanNanoseconds),10}{Time(l.P50Nanoseconds),10}{Time(l.P90Nanoseconds),10}{Time(l.P99Nanoseconds),10}{Time(l.MaxNanoseconds),10}");

    private void WriteBars(StringBuilder text)
    {
        IReadOnlyList<long> counts = Latency.Distribution;
        int first = 0;
        int last = counts.Count - 1;
        long most = 0;
        foreach (long count in counts)
        {
            most = Math.Max(most, count);
        }

        if (most == 0)
        {
            return;
        }

        while (counts[first] == 0)
        {
            first++;
        }

        while (counts[last] == 0)
        {
            last--;
        }

        text.Append('\n');
        for (int n = first; n <= last; n++)
        {
            // A bucket that holds anything shows at least one mark.
            int marks = counts[n] == 0 ? 0 : Math.Max(1, (int)Math.Round(counts[n] / (double)most * BarWidth));
            string from = n == 0 ? "0 ns" : Time(1000L << n);
            string upTo = n == counts.Count - 1 ? "up" : Time(1000L << (n + 1));
            Line(text, $"  {from,8} - {upTo,-8} {counts[n],9} {new string('#', marks)}");
        }
    }

    private void WriteOpen(StringBuilder text)
    {
        if (OpenStalls.Count == 0)
        {
            return;
        }

        text.Append('\n');
        for (int i = 0; i < Math.Min(OpenStalls.Count, 8); i++)
        {
            OpenStall stall = OpenStalls[i];
            Line(text, $"  open for {Time(Math.Max(0, At - stall.Since))}: {stall}");
        }

        if (OpenStalls.Count > 8)
        {
            Line(text, $"  ... and {OpenStalls.Count - 8} more");
        }
    }

    private void WriteNotes(StringBuilder text)
    {
        text.Append('\n');
        text.Append("  Times run from reading the fault message to the wake; both ends are late by:\n");
        Line(text, $"    start: reader's delay  {Delay(ReaderDelay)}");
        Line(text, $"    end: stamp's delay     {Delay(StampDelay)}");
        if (ErrorBoundNanoseconds > 0)
        {
            Line(text, $"  Records came late or did not fit: times may be off by up to {Time(ErrorBoundNanoseconds)}.");
        }

        if (ReadingExcessNanoseconds > 0)
        {
            Line(text, $"  An earlier reading was ahead; a time is still {Time(ReadingExcessNanoseconds)} too high.");
        }

        if (Untracked + OtherOverflow > 0)
        {
            Line(text, $"  Faults not measured for want of room: {Untracked} of vCPUs, {OtherOverflow} of others.");
        }

        if (TimelineDropped > 0)
        {
            Line(text, $"  Intervals not kept in the timeline: {TimelineDropped}.");
        }
    }

    private static string Delay(DelaySummary delay) => delay.Count == 0
        ? "not known"
        : string.Create(CultureInfo.InvariantCulture, $"mean {Time(delay.MeanNanoseconds)}, at most {Time(delay.MaxNanoseconds)} seen");
}
