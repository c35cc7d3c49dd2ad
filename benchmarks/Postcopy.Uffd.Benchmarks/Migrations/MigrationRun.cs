using System.Text.Json.Nodes;
using Postcopy.Uffd.Benchmarks.Interop;
using Postcopy.Uffd.Benchmarks.Lab;

namespace Postcopy.Uffd.Benchmarks.Migrations;

/// <summary>What one migration from a QEMU source gave.</summary>
internal sealed record MigrationRun
{
    /// <summary>From the start of the migration to its end, as the source counts it.</summary>
    internal required TimeSpan Wall { get; init; }

    /// <summary>Processor time of the destination's process meanwhile.</summary>
    internal required TimeSpan Cpu { get; init; }

    internal required GuestResidence Memory { get; init; }

    internal required ulong[] Stalls { get; init; }

    internal required IReadOnlyDictionary<string, double> Figures { get; init; }

    /// <summary>Moves a guest that never ran from a fresh source to a fresh destination.</summary>
    internal static MigrationRun Measure(GuestContent content, Func<IDestinationProcess> start, bool preempt = false, bool newest = false)
    {
        using IDestinationProcess destination = start();
        return Measure(destination, () => QemuMachine.Source(content, newest: newest), content.Bytes, preempt);
    }

    /// <summary>Moves a stopped guest to a destination that waits already.</summary>
    /// <param name="destination">Where to.</param>
    /// <param name="startSource">Starts the source.</param>
    /// <param name="guestBytes">Its memory.</param>
    /// <param name="preempt">Requested pages come on a channel of their own.</param>
    /// <param name="meanwhile">Called when the migration has begun.</param>
    internal static MigrationRun Measure(IDestinationProcess destination, Func<QemuMachine> startSource, long guestBytes, bool preempt, Action? meanwhile = null)
    {
        using QemuMachine source = startSource();

        // A hypervisor with free page reporting takes huge pages back 2 s after they were freed; the next touch then costs
        // ten times what it does else. Whoever comes finds memory that was in use a moment ago.
        WarmMemory.Touch(guestBytes + (guestBytes / 4));
        TimeSpan before = Libc.ProcessTime(destination.ProcessId);
        source.Migrate(destination.Uri, preempt);
        meanwhile?.Invoke();
        JsonNode migration = source.WaitForCompletion();
        destination.WaitForCompletion();
        TimeSpan after = Libc.ProcessTime(destination.ProcessId);
        return new MigrationRun
        {
            Wall = TimeSpan.FromMilliseconds(migration["total-time"]!.GetValue<long>()),
            Cpu = after - before,
            Memory = GuestResidence.Of(destination.ProcessId),
            Stalls = destination.Stalls,
            Figures = destination.Figures,
        };
    }
}
