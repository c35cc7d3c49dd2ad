namespace Postcopy.Uffd.Qemu;

/// <summary>How a migration from QEMU is received.</summary>
public sealed record QemuIncomingOptions
{
    /// <summary>Limits of the stream, buffer size, the source's page size.</summary>
    public QemuStreamOptions Stream { get; init; } = new();

    /// <summary>
    /// Says what memory a block of the source's list gets that the host did not add to the destination itself (those are
    /// matched by name). Null, here or as answer: anonymous memory, or hugetlb for huge pages. Called on a connection's thread.
    /// </summary>
    public Func<StreamRamBlock, RamBlockSpec?>? CreateBlock { get; init; }

    /// <summary>
    /// Takes the device state, before the guest may run. When it throws, the source is told that the migration failed;
    /// QEMU 10.2 and later then resume their guest. May wait for guest memory with
    /// <see cref="PostcopyDestination.EnsurePresentAsync"/>: pages keep arriving.
    /// </summary>
    public Func<DevicePackage, CancellationToken, ValueTask>? OnPackage { get; init; }

    /// <summary>The point of no return is passed: vCPUs may run. Called once, on a pool thread.</summary>
    public Action? OnRunning { get; init; }

    /// <summary>
    /// How long the main connection may stand still after the point of no return before it counts as lost, the urgent
    /// channel be silent while a page is asked for, and pages stay away after the stream's end; the default is 30 s. Before,
    /// the source may be silent for as long as it likes.
    /// </summary>
    public TimeSpan StallTimeout { get; init; } = TimeSpan.FromSeconds(30);

    /// <summary>
    /// How long to wait for a new connection after one was lost in postcopy. Zero, the default, gives up at once: the
    /// guest stays frozen where it touches what is missing.
    /// </summary>
    public TimeSpan RecoverTimeout { get; init; }

    /// <summary>
    /// With a <see cref="RecoverTimeout"/>, waits also for who brings what is missing after the end of the stream: lost on the urgent
    /// channel, or by a damaged received bitmap. Only <see cref="QemuSource.ForRecovery"/> can; QEMU has given such a migration up, so
    /// by default the loss is reported at once.
    /// </summary>
    public bool RecoverAfterEnd { get; init; }

    /// <summary>
    /// The source has the capability postcopy-preempt. Its urgent channel is recognized by its first page in any case; with
    /// this, a connection that ends before it said anything counts as the urgent channel and as lost: the migration pauses,
    /// where a page on its way there would be gone for good otherwise. Leave it off where strangers can connect.
    /// </summary>
    public bool Preempt { get; init; }

    /// <summary>
    /// Hears of each page that arrived damaged; it is asked for again in any case. Only sources of this library send the
    /// checksums that show it (<see cref="QemuSourceOptions.PageChecksums"/>). Called on a connection's thread; must not throw.
    /// </summary>
    public Action<CorruptPage>? OnCorruptPage { get; init; }

    /// <summary>
    /// Answer OPEN_RETURN_PATH with SWITCHOVER_ACK. Only for sources with the capability switchover-ack: of 8.1 and later, but
    /// of 11.1 with machine types of earlier releases only: with its own it takes an ack that no device waits for as an error.
    /// </summary>
    public bool SwitchoverAck { get; init; }

    /// <summary>Measures time.</summary>
    public TimeProvider TimeProvider { get; init; } = TimeProvider.System;
}
