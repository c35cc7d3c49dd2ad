using System.Net;

namespace Postcopy.Vmm.Node;

/// <summary>What a VMM process does.</summary>
internal sealed record NodeOptions
{
    /// <summary>Boot a guest of our own; otherwise the first one comes over the wire.</summary>
    internal bool Boots { get; init; }

    internal int Vcpus { get; init; } = 1;

    internal long MemoryBytes { get; init; } = 32 << 20;

    internal bool LongMode { get; init; } = true;

    /// <summary>Where guests come in.</summary>
    internal IPEndPoint? Listen { get; init; }

    /// <summary>Where guests go.</summary>
    internal IPEndPoint? To { get; init; }

    /// <summary>Migrations that this process takes part in, in both directions, before it keeps what it has.</summary>
    internal int Hops { get; init; }

    /// <summary>Heartbeats of each vCPU to wait for before the guest is sent on, or before the end.</summary>
    internal int Beats { get; init; } = 4;

    /// <summary>Ticks between heartbeats of a guest that is booted here.</summary>
    internal uint BeatInterval { get; init; } = 500_000_000;

    /// <summary>Bytes a second of pages that nobody asked for; 0 is unlimited.</summary>
    internal long Bandwidth { get; init; }

    /// <summary>How long to wait for a new connection when one breaks in postcopy.</summary>
    internal TimeSpan RecoverTimeout { get; init; } = TimeSpan.FromSeconds(30);

    internal TimeSpan Timeout { get; init; } = TimeSpan.FromSeconds(120);

    /// <summary>Where the result goes as JSON; null for nowhere.</summary>
    internal string? ResultFile { get; init; }

    /// <summary>Where the picture of the stalls goes as HTML; null for nowhere.</summary>
    internal string? TimelineFile { get; init; }

    /// <summary>The monitor socket of a QEMU source, to give a guest back that is refused here.</summary>
    internal string? QmpSocket { get; init; }

    /// <summary>A stream that QEMU saved of the same machine, whose VM description tells the lengths of the sections.</summary>
    internal string? VmDescriptionFile { get; init; }
}
