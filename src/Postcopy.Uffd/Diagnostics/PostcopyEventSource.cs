using System.Diagnostics.Tracing;

namespace Postcopy.Uffd;

/// <summary>EventSource <c>Postcopy-Uffd</c>: the control path for EventPipe, perf and dotnet-trace.</summary>
[EventSource(Name = "Postcopy-Uffd")]
internal sealed class PostcopyEventSource : EventSource
{
    internal static readonly PostcopyEventSource Log = new();

    private PostcopyEventSource()
    {
    }

    [Event(1, Level = EventLevel.Informational, Keywords = Keywords.Control, Message = "{0} -> {1}")]
    public void StateChanged(string from, string to) => WriteEvent(1, from, to);

    [Event(2, Level = EventLevel.Informational, Keywords = Keywords.Control, Message = "complete: {0} bytes in {1} ms")]
    public void Completed(long bytes, long milliseconds) => WriteEvent(2, bytes, milliseconds);

    [Event(3, Level = EventLevel.Critical, Keywords = Keywords.Control, Message = "failed: {0}")]
    public void Failed(string why) => WriteEvent(3, why);

    [Event(4, Level = EventLevel.Warning, Keywords = Keywords.Control, Message = "page at {1} of {0} open for {2} ms")]
    public void Stalled(string block, long offset, long milliseconds) => WriteEvent(4, block, offset, milliseconds);

    [Event(20, Level = EventLevel.Error, Keywords = Keywords.Control, Message = "{1} threads were stuck on faults: {0}")]
    public void StuckFaults(string kind, long threads) => WriteEvent(20, kind, threads);

    public static class Keywords
    {
        public const EventKeywords Control = (EventKeywords)1;
    }
}
