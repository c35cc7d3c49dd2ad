using System.Text.Json;
using Postcopy.Vmm.Guest;

namespace Postcopy.Vmm.Node;

/// <summary>What a VMM process did, for people who start several of them: written as JSON.</summary>
internal sealed record NodeResult
{
    public List<NodeArrival> Arrivals { get; init; } = [];

    public List<NodeDeparture> Departures { get; init; } = [];

    /// <summary>What the guest printed here; the first line may have begun elsewhere.</summary>
    public List<string> Lines { get; init; } = [];

    /// <summary>The heartbeats of a vCPU that were printed here, in their order.</summary>
    internal int[] Beats(int vcpu) => Heartbeat.Of(vcpu, Lines);

    /// <summary>The guest that was here in the end; null when it was sent away.</summary>
    public NodeGuest? Guest { get; set; }

    /// <summary>Why it failed; null when it did not.</summary>
    public string? Error { get; set; }

    internal static NodeResult Read(string path) =>
        JsonSerializer.Deserialize<NodeResult>(File.ReadAllText(path)) ?? throw new InvalidDataException($"{path} is empty.");

    internal void Write(string path) => File.WriteAllText(path, JsonSerializer.Serialize(this));
}

/// <summary>A guest that came.</summary>
internal sealed record NodeArrival(
    string From, double? DowntimeMs, double DurationMs, long Pages, long ZeroPages, long PrecopyPages, long FaultRequests, long UrgentPages, long LostConnections,
    double TotalBlockedMs, double[] VcpuBlockedMs, string[] Timeline);

/// <summary>A guest that went.</summary>
internal sealed record NodeDeparture(string End, double DurationMs, long DirtyPages, long Requests, int Reconnections);

/// <summary>A guest that was stopped and looked at.</summary>
internal sealed record NodeGuest(long CheckedPages, long WrongPages, string? FirstWrong, long[] Touched, long[] Errors);
