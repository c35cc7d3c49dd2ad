namespace Postcopy.Uffd;

/// <summary>What a finished postcopy did.</summary>
public sealed record CompletionReport
{
    /// <summary>Bytes of all RAM blocks.</summary>
    public required long TotalBytes { get; init; }

    /// <summary>From Listen to the last page.</summary>
    public required TimeSpan Duration { get; init; }

    /// <summary>How pages were placed.</summary>
    public required PlacementStatistics Placement { get; init; }

    /// <summary>What the fault thread did.</summary>
    public required FaultStatistics Faults { get; init; }

    /// <summary>How long the guest stood still; null when blocktime was off.</summary>
    public BlocktimeReport? Blocktime { get; init; }

    /// <summary>Bytes placed over time, as <see cref="PostcopyDestination.PlacementSamples"/> has them.</summary>
    public IReadOnlyList<PlacementSample> PlacementSamples { get; init; } = [];
}
