using Postcopy.Uffd;

namespace Postcopy.Vmm.Node;

/// <summary>How long the guest stood still, as text and as numbers.</summary>
internal sealed record BlocktimeFigures(string Text, double? TotalMs, double[] VcpuMs)
{
    internal static BlocktimeFigures From(CompletionReport report) => new(string.Empty, null, []);
}
