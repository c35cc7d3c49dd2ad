using Postcopy.Uffd.Qemu;

namespace Postcopy.Uffd.Hosting;

/// <summary>The machine that arrives: what the VMM does at each step. Register one as a singleton.</summary>
/// <remarks>
/// The members are called in the order in which they stand here, none of them on the fault thread; they may allocate and
/// wait. While pages are missing, managed code must not touch guest memory (docs/memory-safety.md).
/// </remarks>
public interface IPostcopyGuest
{
    /// <summary>Before a source is let in: RAM blocks that the host maps itself are added to <see cref="PostcopyDestination.Blocks"/>.</summary>
    /// <param name="destination">The destination, in state none.</param>
    /// <param name="cancellationToken">The host stops.</param>
    /// <remarks>An exception ends the host's start.</remarks>
    ValueTask PrepareAsync(PostcopyDestination destination, CancellationToken cancellationToken) => ValueTask.CompletedTask;

    /// <summary>Says what memory a block of the source's list gets that was not added before.</summary>
    /// <param name="block">What the source says of it.</param>
    /// <returns>The block; null for anonymous memory, or hugetlb for huge pages.</returns>
    RamBlockSpec? CreateBlock(StreamRamBlock block) => null;

    /// <summary>Takes the device state. What it throws is told to the source, which then keeps its guest if it can (QEMU 10.2).</summary>
    /// <param name="package">The devices, as bytes.</param>
    /// <param name="destination">The destination; wait for guest memory by <see cref="PostcopyDestination.EnsurePresentAsync"/>.</param>
    /// <param name="cancellationToken">The migration was given up.</param>
    ValueTask LoadDevicesAsync(DevicePackage package, PostcopyDestination destination, CancellationToken cancellationToken);

    /// <summary>The point of no return is passed: start the vCPUs. Missing pages stop them one by one.</summary>
    /// <param name="destination">The destination; register vCPU threads with its <see cref="PostcopyDestination.Blocktime"/>.</param>
    void Run(PostcopyDestination destination);

    /// <summary>All memory is here, and is ordinary memory again.</summary>
    /// <param name="report">What it took.</param>
    /// <param name="cancellationToken">The host stops.</param>
    ValueTask CompletedAsync(CompletionReport report, CancellationToken cancellationToken) => ValueTask.CompletedTask;

    /// <summary>
    /// It failed for good. Before the point of no return the guest is the source's; after it, vCPUs that touch what is missing
    /// stay frozen, and nothing wrong is ever read.
    /// </summary>
    /// <param name="why">Usually a <see cref="QemuIncomingException"/>, which says in which phase and what is missing.</param>
    void Failed(Exception why)
    {
    }
}
