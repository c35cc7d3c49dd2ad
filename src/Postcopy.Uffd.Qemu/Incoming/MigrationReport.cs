namespace Postcopy.Uffd.Qemu;

/// <summary>
/// How an incoming migration stands, or what it did, as QEMU tells it of its own: <c>query-migrate</c> for machines, the
/// monitor's <c>info migrate</c> for people. A destination of QEMU's own fills in the status and the blocktime only.
/// </summary>
public sealed partial record MigrationReport
{
    internal const int PageBytes = HostPageAssembler.TargetPageBytes;

    /// <summary>
    /// QEMU's name: setup before a source came, active, postcopy-device until the point of no return of a source that has one,
    /// postcopy-active, postcopy-paused, postcopy-recover in the handshake of a resume, completed, failed, cancelled.
    /// </summary>
    public required string Status { get; init; }

    /// <summary>Why it failed or is paused; null otherwise.</summary>
    public string? Error { get; init; }

    /// <summary>From the source's first connection to the end, or to now.</summary>
    public TimeSpan TotalTime { get; init; }

    /// <summary>Bytes of all RAM blocks.</summary>
    public long TotalBytes { get; init; }

    /// <summary>Those of them that are missing; before the switch others may become stale.</summary>
    public long RemainingBytes { get; init; }

    /// <summary>Bytes received on all connections.</summary>
    public long TransferredBytes { get; init; }

    /// <summary>Those of them that came up to the switch, the device package included.</summary>
    public long PrecopyBytes { get; init; }

    /// <summary>Those of them that came after it.</summary>
    public long PostcopyBytes => TransferredBytes - PrecopyBytes;

    /// <summary>Target pages that came with content.</summary>
    public long NormalPages { get; init; }

    /// <summary>Target pages that came as zeros.</summary>
    public long ZeroPages { get; init; }

    /// <summary>Page requests sent.</summary>
    public long Requests { get; init; }

    /// <summary>How long the guest stood still; null when blocktime is off, and before the switch.</summary>
    public BlocktimeReport? Blocktime { get; init; }

    private double PerSecond(double amount) => TotalTime > TimeSpan.Zero ? amount / TotalTime.TotalSeconds : 0;

    private double MegabitsPerSecond => PerSecond(TransferredBytes * 8 / 1e6);

    private long PagesPerSecond => (long)PerSecond(NormalPages + ZeroPages);
}
