namespace Postcopy.Uffd.Qemu;

/// <summary>How a <see cref="QemuSource"/> behaves.</summary>
public sealed record QemuSourceOptions
{
    /// <summary>The machine type in the configuration.</summary>
    public string MachineType { get; init; } = "none";

    /// <summary>Sent to be compared when set (validate-uuid).</summary>
    public Guid? Uuid { get; init; }

    /// <summary>The page size of blocks whose page size is not put on the wire.</summary>
    public int HostPageSize { get; init; } = 4096;

    /// <summary>Passes over the memory before the switch; 0 sends everything by postcopy.</summary>
    public int PrecopyPasses { get; init; }

    /// <summary>Bytes of memory that precopy sends at most; what is left goes by postcopy.</summary>
    public long PrecopyLimit { get; init; } = long.MaxValue;

    /// <summary>Device sections of the package, complete with headers and footers; opaque here.</summary>
    public ReadOnlyMemory<byte> DeviceSections { get; init; }

    /// <summary>
    /// For a source with a guest: called once on the source's thread when precopy is over. It stops the guest, marks what it
    /// wrote since (<see cref="QemuSource.MarkDirty"/>) and returns the device sections, which replace
    /// <see cref="DeviceSections"/>. When it throws, the migration fails before the switch.
    /// </summary>
    public Func<ReadOnlyMemory<byte>>? StopGuest { get; init; }

    /// <summary>Sends PING 0x42 before RUN, and stays in <see cref="QemuSourceState.PostcopyDevice"/> until its PONG (QEMU 10.2).</summary>
    public bool UsePointOfNoReturn { get; init; }

    /// <summary>Sends SWITCHOVER_START before the discards (QEMU 10.0).</summary>
    public bool SendSwitchoverStart { get; init; }

    /// <summary>Sends pages of zeros as such.</summary>
    public bool DetectZeroPages { get; init; } = true;

    /// <summary>
    /// Sends a checksum with each page (0.3 % more bytes), and sends a page again that arrived damaged. Only for destinations
    /// of this library: QEMU refuses such pages. XXH3: it finds accidents, it does not protect from an attacker.
    /// </summary>
    public bool PageChecksums { get; init; }

    /// <summary>When the urgent channel is opened.</summary>
    public QemuPreemptMode Preempt { get; init; }

    /// <summary>Bytes per second of pages that nobody asked for; 0 is unlimited. Also settable while it runs.</summary>
    public long BackgroundBandwidth { get; init; }

    /// <summary>Measures time for the bandwidth.</summary>
    public TimeProvider TimeProvider { get; init; } = TimeProvider.System;
}
