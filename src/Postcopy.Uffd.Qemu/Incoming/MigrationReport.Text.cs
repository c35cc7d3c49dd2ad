using System.Globalization;
using System.Text;

namespace Postcopy.Uffd.Qemu;

/// <content>For people, line by line as the monitor of QEMU 11.1 shows it.</content>
public sealed partial record MigrationReport
{
    /// <summary>
    /// The text of the monitor's <c>info migrate -a</c>, without its list of globals; lines end with a line feed. What only a
    /// source can know (set-up and down time, dirty pages) is left out.
    /// </summary>
    /// <returns>The text.</returns>
    public string ToText()
    {
        StringBuilder text = new();
        Line(text, $"Status: \t\t{Status}{(Error is null ? "" : $" ({Error})")}");
        Line(text, $"Time (ms): \t\ttotal={TotalTime.TotalMilliseconds:0}");
        if (TotalBytes > 0)
        {
            WriteRam(text);
        }

        if (Blocktime is not null)
        {
            WriteBlocktime(text, Blocktime);
        }

        return text.ToString();
    }

    /// <inheritdoc cref="ToText"/>
    public override string ToString() => ToText();

    private void WriteRam(StringBuilder text)
    {
        Line(text, $"RAM info:");
        Line(text, $"  Throughput (Mbps): \t{MegabitsPerSecond:0.00}");
        Line(text, $"  Sizes: \t\tpagesize={Size(PageBytes)}, total={Size(TotalBytes)}");
        Line(text, $"  Transfers: \t\ttransferred={Size(TransferredBytes)}, remain={Size(RemainingBytes)}");
        Line(text, $"    Channels: \t\tprecopy={Size(PrecopyBytes)}, multifd={Size(0)}, postcopy={Size(PostcopyBytes)}");
        Line(text, $"    Page Types: \tnormal={NormalPages}, zero={ZeroPages}");
        Line(text, $"  Page Rates (pps): \ttransfer={PagesPerSecond}");
        Line(text, $"  Others: \t\tpostcopy_req={Requests}");
    }

    private static void WriteBlocktime(StringBuilder text, BlocktimeReport blocktime)
    {
        Line(text, $"Postcopy Blocktime (ms): {blocktime.TotalNanoseconds / 1_000_000}");
        Line(text, $"Postcopy vCPU Blocktime (ms):");
        Line(text, $" [{string.Join(", ", blocktime.Vcpus.Select(v => v.BlocktimeNanoseconds / 1_000_000))}]");
        Line(text, $"Postcopy Latency (ns): {blocktime.Latency.MeanNanoseconds}");
        Line(text, $"Postcopy non-vCPU Latency (ns): {blocktime.OtherLatency.MeanNanoseconds}");
        Line(text, $"Postcopy vCPU Latencies (ns):");
        Line(text, $" [{string.Join(", ", blocktime.Vcpus.Select(v => v.MeanLatencyNanoseconds))}]");
        Line(text, $"Postcopy Latency Distribution:");
        for (int n = 0; n < blocktime.Latency.Distribution.Count; n++)
        {
            Line(text, $"  [ {Microseconds(1L << n),8} - {Microseconds(2L << n),8} ]: {blocktime.Latency.Distribution[n],10}");
        }
    }

    private static void Line(StringBuilder text, FormattableString line) => text.Append(line.ToString(CultureInfo.InvariantCulture)).Append('\n');

    private static string Microseconds(long microseconds) => microseconds switch
    {
        < 1_000 => $"{microseconds} us",
        < 1_000_000 => $"{microseconds / 1_000} ms",
        _ => $"{microseconds / 1_000_000} sec",
    };

    // Three digits and a binary unit.
    private static string Size(long bytes)
    {
        double value = bytes;
        int unit = 0;
        for (; value >= 1000; unit++)
        {
            value /= 1024;
        }

        string digits = value < 10 ? "0.##" : value < 100 ? "0.#" : "0";
        string[] units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        return $"{value.ToString(digits, CultureInfo.InvariantCulture)} {units[unit]}";
    }
}
