namespace Postcopy.Uffd;

/// <summary>What the fault thread did so far.</summary>
public sealed record FaultStatistics
{
    /// <summary>Pagefault messages read.</summary>
    public long Messages { get; init; }

    /// <summary>Messages about a page that somebody had asked for already and that was not there yet (hazard H2).</summary>
    public long Duplicates { get; init; }

    /// <summary>Pages asked for at the source because a thread touched them: one request however many waited.</summary>
    public long Requests { get; init; }

    /// <summary>Messages about a page that was placed meanwhile: no stall.</summary>
    public long AlreadyReceived { get; init; }

    /// <summary>Pages given back as zeros after they had been thrown away (hazard H5).</summary>
    public long ZeroFilled { get; init; }

    /// <summary>
    /// Faults that were tried again later: the address space had to settle (hazard H3), or the page was in a channel's hand or, with
    /// <see cref="StretchPlacement.WholeOnFault"/>, kept back for its stretch.
    /// </summary>
    public long Parked { get; init; }

    /// <summary>Remove, unmap, remap and fork events.</summary>
    public long Events { get; init; }

    /// <summary>Messages about addresses of no known block.</summary>
    public long Unknown { get; init; }

    /// <summary>Times the link had no room for a request.</summary>
    public long RequesterBusy { get; init; }

    /// <summary>
    /// Threads that the watchdog found stuck and set going (<see cref="PostcopyOptions.StuckFaultCheck"/>). Anything but
    /// 0 is a defect somewhere: another reader of the descriptor, a placement without a wake, or this library.
    /// </summary>
    public long StuckFaults { get; init; }

    /// <summary>Times the watchdog woke all waiters because some had waited for long: harmless, one duplicate a waiter.</summary>
    public long WatchdogWakes { get; init; }
}
