using System.Diagnostics.Tracing;

namespace Postcopy.Uffd;

/// <summary>EventSource <c>Postcopy-Uffd</c>: for EventPipe, dotnet-trace and perf. Never written to by the fault thread.</summary>
/// <remarks>The first argument of each is the name of the virtual machine (<see cref="PostcopyOptions.Name"/>), or empty.</remarks>
[EventSource(Name = "Postcopy-Uffd")]
internal sealed class PostcopyEventSource : EventSource
{
    internal static readonly PostcopyEventSource Log = new();

    private PostcopyEventSource()
    {
    }

    internal bool WantsFaults => IsEnabled(EventLevel.Verbose, Keywords.Faults);

    internal bool WantsPlacement => IsEnabled(EventLevel.Verbose, Keywords.Placement);

    [Event(1, Level = EventLevel.Informational, Keywords = Keywords.Control, Message = "{0}: {1} -> {2}")]
    public void StateChanged(string vm, string from, string to) => WriteEvent(1, vm, from, to);

    [Event(2, Level = EventLevel.Informational, Keywords = Keywords.Control, Message = "{0}: complete, {1} bytes in {2} ms")]
    public void Completed(string vm, long bytes, long milliseconds) => WriteEvent(2, vm, bytes, milliseconds);

    [Event(3, Level = EventLevel.Critical, Keywords = Keywords.Control, Message = "{0}: failed, {1}")]
    public void Failed(string vm, string why) => WriteEvent(3, vm, why);

    [Event(4, Level = EventLevel.Warning, Keywords = Keywords.Control, Message = "{0}: page at {2} of {1} open for {3} ms")]
    public void Stalled(string vm, string block, long offset, long milliseconds) => WriteEvent(4, vm, block, offset, milliseconds);

    [Event(5, Level = EventLevel.Warning, Keywords = Keywords.Control, Message = "{0}: link down, {1}")]
    public void Paused(string vm, string why) => WriteEvent(5, vm, why);

    [Event(20, Level = EventLevel.Error, Keywords = Keywords.Control, Message = "{0}: {2} threads were stuck on faults, {1}")]
    public void StuckFaults(string vm, string kind, long threads) => WriteEvent(20, vm, kind, threads);

    /// <summary>A fault message and what became of it; <paramref name="readAt"/> is on the monotonic clock, in nanoseconds.</summary>
    [Event(30, Level = EventLevel.Verbose, Keywords = Keywords.Faults, Message = "{0}: thread {3} at {2} of {1}, {4}")]
    public void Fault(string vm, string block, long offset, long thread, string outcome, long readAt) => WriteEvent(30, vm, block, offset, thread, outcome, readAt);

    [Event(31, Level = EventLevel.Verbose, Keywords = Keywords.Faults, Message = "{0}: {1} faults had no room in the ring")]
    public void FaultsDropped(string vm, long count) => WriteEvent(31, vm, count);

    /// <summary>What was placed since the last event of this kind, 100 ms ago or more.</summary>
    [Event(40, Version = 1, Level = EventLevel.Verbose, Keywords = Keywords.Placement, Message = "{0}: {1} bytes copied, {2} zero, {3} mapped, {6} moved, {4} operations, {5} awaited")]
    public void Placed(string vm, long copiedBytes, long zeroBytes, long continuedBytes, long operations, long awaited, long movedBytes) =>
        WriteEvent(40, vm, copiedBytes, zeroBytes, continuedBytes, operations, awaited, movedBytes);

    /// <summary>What can be switched on alone.</summary>
    public static class Keywords
    {
        /// <summary>States, alarms, failures: a few events per migration.</summary>
        public const EventKeywords Control = (EventKeywords)1;

        /// <summary>Each fault message.</summary>
        public const EventKeywords Faults = (EventKeywords)2;

        /// <summary>Progress of placement.</summary>
        public const EventKeywords Placement = (EventKeywords)4;
    }
}
