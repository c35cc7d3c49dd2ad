namespace Postcopy.Uffd;

/// <summary>
/// Keeps placements out between the moment a REMOVE, UNMAP or REMAP event is read and the moment it is acted on. The
/// kernel lets the madvise thread go on as soon as the event is <em>read</em>: a COPY in that window would put old
/// source data over a page that the guest was promised as zeros (hazards H4, H5).
/// </summary>
/// <remarks>
/// Only used when events are enabled. The reader holds it exclusively while it reads and applies a batch, placers
/// hold it shared around one ioctl and the received bit that follows; nobody allocates or blocks while holding it. The
/// writer announces itself first and then waits for the shared holders, so a flood of placements cannot starve it.
/// Model: tests/models/events.pml.
/// </remarks>
internal sealed class LayoutGate
{
    private const int Writer = 1 << 30;

    private int _state;

    internal void EnterShared()
    {
        BackOff wait = default;
        while ((Interlocked.Increment(ref _state) & Writer) != 0)
        {
            _ = Interlocked.Decrement(ref _state);
            wait.Pause();
        }
    }

    internal void ExitShared() => _ = Interlocked.Decrement(ref _state);

    internal void EnterExclusive()
    {
        _ = Interlocked.Or(ref _state, Writer);
        BackOff wait = default;
        while (Volatile.Read(ref _state) != Writer)
        {
            wait.Pause();
        }
    }

    internal void ExitExclusive() => _ = Interlocked.And(ref _state, ~Writer);
}
