namespace Postcopy.Uffd.Qemu;

/// <summary>What came over the wire so far.</summary>
public sealed record QemuIncomingStatistics
{
    /// <summary>How far the stream has come.</summary>
    public StreamPhase Phase { get; init; }

    /// <summary>Bytes received on all connections.</summary>
    public long Bytes { get; init; }

    /// <summary>Target pages that came with content.</summary>
    public long Pages { get; init; }

    /// <summary>Target pages that came as zeros.</summary>
    public long ZeroPages { get; init; }

    /// <summary>Target pages of the precopy passes, among the two above.</summary>
    public long PrecopyPages { get; init; }

    /// <summary>Target pages that came on the urgent channel, among the two above.</summary>
    public long UrgentPages { get; init; }

    /// <summary>Pages that arrived damaged, were not placed, and were asked for again (<see cref="QemuSourceOptions.PageChecksums"/>).</summary>
    public long CorruptPages { get; init; }

    /// <summary>Page requests sent on all connections: what the source calls postcopy-requests.</summary>
    public long Requests { get; init; }

    /// <summary>Connections lost after the switch.</summary>
    public long LostConnections { get; init; }

    /// <summary>True once the source was told that nothing is missing, and heard it.</summary>
    public bool SourceConfirmed { get; init; }
}
