using System.Globalization;
using Postcopy.Uffd;

namespace Postcopy.Vmm.Node;

/// <summary>How long the guest stood still: numbers per vCPU, the library's report, and the timeline of the stalls.</summary>
internal sealed record BlocktimeFigures(string Text, double TotalMs, double[] VcpuMs, string[] Timeline)
{
    private const int Columns = 64;
    private const double Full = 0.95;
    private const double Some = 0.05;

    internal static BlocktimeFigures From(BlocktimeReport report)
    {
        VcpuBlocktime[] vcpus = [.. report.Vcpus.OrderBy(v => int.Parse(v.Name!, CultureInfo.InvariantCulture))];
        return new BlocktimeFigures(report.ToText(), report.TotalNanoseconds / 1e6, [.. vcpus.Select(v => v.BlocktimeNanoseconds / 1e6)], [.. Draw(report, vcpus)]);
    }

    /// <summary>A row for each vCPU and one for all at once: '#' stood still, '+' partly, '.' ran.</summary>
    private static IEnumerable<string> Draw(BlocktimeReport report, VcpuBlocktime[] vcpus)
    {
        if (report.Timeline.Count == 0)
        {
            yield break;
        }

        long start = report.Timeline.Min(i => i.Start);
        double column = Math.Max(1, (report.Timeline.Max(i => i.End) - start) / (double)Columns);
        yield return string.Create(CultureInfo.InvariantCulture,
            $"timeline of {column * Columns / 1e6:0.0} ms from the first stall on, {column / 1e6:0.00} ms a character: # stood still, + partly, . ran");
        foreach (VcpuBlocktime vcpu in vcpus)
        {
            yield return $"vCPU {vcpu.Name}  " + Row(report.Timeline.Where(i => i.Slot == vcpu.Slot).Select(i => (i.Start - start, i.End - start)), column);
        }

        if (vcpus.Length > 1)
        {
            yield return "all     " + Row(report.Overlaps.Select(i => (i.Start - start, i.End - start)), column);
        }
    }

    private static string Row(IEnumerable<(long From, long To)> intervals, double column)
    {
        double[] blocked = new double[Columns];
        foreach ((long from, long to) in intervals)
        {
            for (int i = Math.Max(0, (int)(from / column)); i < Columns && i * column < to; i++)
            {
                blocked[i] += Math.Max(0, Math.Min(to, (i + 1) * column) - Math.Max(from, i * column));
            }
        }

        return new string([.. blocked.Select(b => b / column > Full ? '#' : b / column > Some ? '+' : '.')]);
    }
}
