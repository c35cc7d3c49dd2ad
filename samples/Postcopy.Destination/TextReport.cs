using System.Globalization;
using System.Text;
using Postcopy.Uffd;

namespace Postcopy.Destination;

/// <summary>The report for people.</summary>
internal static class TextReport
{
    internal static string Write(CompletionReport report, VcpuThreads? vcpus)
    {
        StringBuilder text = new();
        _ = text.Append(report.Blocktime!.ToText());
        if (vcpus is not null)
        {
            _ = text.AppendLine(CultureInfo.InvariantCulture,
                $"the threads' own clocks in all touches: {string.Join(", ", vcpus.SelfTimed.Select(t => string.Create(CultureInfo.InvariantCulture, $"{t.TotalMilliseconds:0} ms")))}");
        }

        return text.ToString();
    }
}
