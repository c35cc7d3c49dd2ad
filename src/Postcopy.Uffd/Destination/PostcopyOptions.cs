using System.Diagnostics.Metrics;
using Microsoft.Extensions.Logging;

namespace Postcopy.Uffd;

/// <summary>How a postcopy destination works. The defaults are right for a VMM that runs KVM guests.</summary>
public sealed record PostcopyOptions
{
    /// <summary>How the userfaultfd is opened.</summary>
    public UffdOpenOptions Open { get; init; } = new();

    /// <summary>How blocktime is measured; null switches it off, and then it costs nothing.</summary>
    public BlocktimeOptions? Blocktime { get; init; }

    /// <summary>How pages are placed.</summary>
    public PlacerOptions Placer { get; init; } = new();

    /// <summary>The fault thread.</summary>
    public FaultReaderOptions FaultReader { get; init; } = new();

    /// <summary>
    /// Follow MADV_DONTNEED, MADV_REMOVE, MADV_FREE, munmap and mremap on guest memory (a balloon, memory hot-unplug):
    /// such a call then waits until the fault thread has read of it. What was missing reads as zeros afterwards; on
    /// shared memory MADV_DONTNEED counts as throwing away too, because its event says no more. mremap is followed for
    /// blocks that were given by host address. Off by default. Hole punching through a memfd's
    /// descriptor raises no event (measured): use <see cref="RamBlock.Discard"/> instead.
    /// </summary>
    public bool FollowMemoryEvents { get; init; }

    /// <summary>Lock guest memory with mlock(2) once it is complete. Memory that was locked before is locked again anyway.</summary>
    public bool LockWhenComplete { get; init; }

    /// <summary>How long a page may stay away before <see cref="OnStall"/> is told; the default is 5 s.</summary>
    public TimeSpan StallAlarm { get; init; } = TimeSpan.FromSeconds(5);

    /// <summary>Called, on the control thread and once per page, when a requested page stays away too long.</summary>
    public Action<StallAlarm>? OnStall { get; init; }

    /// <summary>
    /// How often the kernel's count of waiting threads is compared with what is open here; the default is 1 s, and
    /// <see cref="Timeout.InfiniteTimeSpan"/> switches it off. Waiters that nobody knows of are woken at the second look,
    /// all waiters at every fifth, so no thread sleeps on a lost message or a missed wake for longer than five looks.
    /// </summary>
    public TimeSpan StuckFaultCheck { get; init; } = TimeSpan.FromSeconds(1);

    /// <summary>Where the control path logs; null logs nothing.</summary>
    public ILoggerFactory? LoggerFactory { get; init; }

    /// <summary>
    /// Names the virtual machine: attribute <c>postcopy.vm</c> of its metrics, so that several in one process can be told
    /// apart. Null, the default, leaves the attribute out.
    /// </summary>
    public string? Name { get; init; }

    /// <summary>
    /// Where the instruments of docs/observability.md are made, such as a meter of an <c>IMeterFactory</c>; destinations
    /// may share it. Null, the default, is the process's own meter <c>Postcopy.Uffd</c>. It stays the caller's to dispose.
    /// </summary>
    public Meter? Meter { get; init; }

    /// <summary>The clock of alarms.</summary>
    public TimeProvider TimeProvider { get; init; } = TimeProvider.System;

    internal void Validate()
    {
        FaultReader.Validate();
        ValidateStuckFaultCheck(StuckFaultCheck, nameof(StuckFaultCheck));
    }

    internal static void ValidateStuckFaultCheck(TimeSpan interval, string option)
    {
        if (interval < TimeSpan.FromMilliseconds(10) && interval != Timeout.InfiniteTimeSpan)
        {
            throw new ArgumentOutOfRangeException(option, interval, "Stuck faults are looked for every 10 ms or more rarely; Timeout.InfiniteTimeSpan switches it off.");
        }
    }
}
