using Postcopy.Uffd;

namespace Postcopy.Destination;

/// <summary>What the command line asked for.</summary>
internal sealed record DestinationOptions
{
    internal int Vcpus { get; init; } = 2;

    internal long MemoryBytes { get; init; } = 256L << 20;

    internal PageSize PageSize { get; init; } = PageSize.Host;

    internal GuestMemoryKind MemoryKind { get; init; }

    internal long Seed { get; init; } = 1;

    /// <summary>Bytes a second of the background stream; 0 is without limit.</summary>
    internal long Bandwidth { get; init; } = 20L << 20;

    /// <summary>text, json or hmp.</summary>
    internal string Report { get; init; } = "text";

    internal string? ReportFile { get; init; }

    internal string? HashFile { get; init; }

    internal string? TimelineFile { get; init; }

    /// <summary>Where an outside source connects; null runs the embedded one.</summary>
    internal Endpoint? Listen { get; init; }

    internal TimeSpan Timeout { get; init; } = TimeSpan.FromSeconds(300);

    internal bool GcPressure { get; init; }

    /// <summary>The embedded source uses the urgent channel of postcopy-preempt.</summary>
    internal bool Preempt { get; init; }

    internal TlsFiles? Tls { get; init; }

    internal string? PackageFile { get; init; }

    internal TimeSpan RecoverTimeout { get; init; }
}
