using Postcopy.Uffd;

namespace Postcopy.Destination;

/// <summary>The report for machines.</summary>
internal static class JsonReport
{
    internal static string Write(CompletionReport report) => report.Blocktime!.ToJson() + Environment.NewLine;
}
