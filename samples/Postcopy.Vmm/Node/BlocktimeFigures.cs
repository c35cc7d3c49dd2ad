using System.Globalization;
using System.Text;
using Postcopy.Uffd;

namespace Postcopy.Vmm.Node;

/// <summary>How long the guest stood still: numbers per vCPU, and the library's report with a picture of the timeline.</summary>
internal sealed record BlocktimeFigures(string Text, double TotalMs, double[] VcpuMs)
{
    private const int Columns = 64;
    private const double Full = 0.95;
    private const double Some = 0.05;

    internal static BlocktimeFigures From(CompletionReport report)
    {
        BlocktimeReport blocktime = report.Blocktime!;
        VcpuBlocktime[] vcpus = [.. blocktime.Vcpus.OrderBy(v => int.Parse(v.Name!, CultureInfo.InvariantCulture))];
        return new BlocktimeFigures(blocktime.ToText() + Draw(blocktime, vcpus), blocktime.TotalNanoseconds / 1e6, [.. vcpus.Select(v => v.BlocktimeNanoseconds / 1e6)]);
    }

    /// <summary>One row per vCPU: '#' stood still, '+' partly, '.' ran.</summary>
    private static string Draw(BlocktimeReport report, VcpuBlocktime[] vcpus)
    {
        if (report.Timeline.Count == 0)
        {
            return string.Empty;
        }

        long start = report.Timeline.Min(i => i.Start);
        long end = report.Timeline.Max(i => i.End);
        double column = Math.Max(1, (end - start) / (double)Columns);
        StringBuilder text = new();
        _ = text.Append(CultureInfo.InvariantCulture, $"  timeline: {(end - start) / 1e6:0.0} ms, {column / 1e6:0.00} ms a character, # stood still, + partly, . ran\n");
        foreach (VcpuBlocktime vcpu in vcpus)
        {
            double[] blocked = new double[Columns];
            foreach (BlockedInterval interval in report.Timeline.Where(i => i.Slot == vcpu.Slot))
            {
                Spread(interval.Start - start, interval.End - start, column, blocked);
            }

            _ = text.Append(CultureInfo.InvariantCulture, $"  vCPU {vcpu.Name}  ")
                .Append([.. blocked.Select(b => b / column > Full ? '#' : b / column > Some ? '+' : '.')]).Append('\n');
        }

        return text.ToString();
    }

    private static void Spread(double from, double to, double column, double[] blocked)
    {
        for (int i = Math.Max(0, (int)(from / column)); i < blocked.Length && i * column < to; i++)
        {
            blocked[i] += Math.Max(0, Math.Min(to, (i + 1) * column) - Math.Max(from, i * column));
        }
    }
}
