using System.Diagnostics;

namespace Postcopy.Uffd;

/// <content>What tracing tools see: events of the control thread, and one activity per migration.</content>
public sealed partial class PostcopyDestination
{
    private static readonly ActivitySource s_activities = new("Postcopy.Uffd");

    private Activity? _activity;
    private FaultTrace? _trace;
    private long _traceDropped;
    private PlacementStatistics _lastPlaced = new();

    /// <summary>Faults are noted for listeners. For tests.</summary>
    internal bool IsTracingFaults => _reader?.Trace is not null;

    private string Vm => _options.Name ?? "";

    /// <summary>Control thread: switches the faults' ring on and off with its listeners, and writes what was collected.</summary>
    private void Trace(PlacementStatistics placed)
    {
        if (PostcopyEventSource.Log.WantsFaults && _trace is null)
        {
            _trace = new FaultTrace();
            _traceDropped = 0;
            _reader!.Trace = _trace;
        }
        else if (_trace is { } trace)
        {
            trace.Drain(Vm, ref _traceDropped);
            if (!PostcopyEventSource.Log.WantsFaults)
            {
                _reader!.Trace = null;
                _trace = null;
            }
        }

        if (!PostcopyEventSource.Log.WantsPlacement)
        {
            return;
        }

        PlacementStatistics before = _lastPlaced;
        if (placed.Operations != before.Operations || placed.AwaitedPlacements != before.AwaitedPlacements)
        {
            _lastPlaced = placed;
            PostcopyEventSource.Log.Placed(
                Vm,
                placed.CopiedBytes - before.CopiedBytes,
                placed.ZeroBytes - before.ZeroBytes,
                placed.ContinuedBytes - before.ContinuedBytes,
                placed.Operations - before.Operations,
                placed.AwaitedPlacements - before.AwaitedPlacements,
                placed.MovedBytes - before.MovedBytes);
        }
    }

    /// <summary>The activity begins with the first step, under whatever the caller is in, and is not made the caller's current one.</summary>
    private void TraceStateLocked(PostcopyState before, PostcopyState state, string? why)
    {
        PostcopyEventSource.Log.StateChanged(Vm, before.ToString(), state.ToString());
        if (before == PostcopyState.None)
        {
            Activity? current = Activity.Current;
            _activity = s_activities.StartActivity("postcopy", ActivityKind.Consumer);
            Activity.Current = current;
            if (_options.Name is { } name)
            {
                _ = _activity?.SetTag("postcopy.vm", name);
            }
        }

        if (_activity is null)
        {
            return;
        }

        ActivityTagsCollection tags = new() { ["postcopy.missing.bytes"] = Blocks.MissingBytes };
        if (why is not null)
        {
            tags["postcopy.reason"] = why;
        }

        _ = _activity.AddEvent(new ActivityEvent($"postcopy.{state.ToString().ToLowerInvariant()}", tags: tags));
    }

    /// <summary>Ends the activity, with figures or with what went wrong.</summary>
    private void EndActivityLocked(CompletionReport? report, string? failure)
    {
        if (_activity is not { } activity)
        {
            return;
        }

        _activity = null;
        _ = activity.SetTag("postcopy.bytes", Blocks.TotalLength).SetTag("postcopy.faults", Faults.Messages).SetTag("postcopy.requests", Faults.Requests);
        if (report?.Blocktime is { } blocktime)
        {
            // Seconds, as the metric of that name.
            _ = activity.SetTag("postcopy.blocktime", blocktime.TotalNanoseconds / 1e9);
        }

        if (failure is not null)
        {
            _ = activity.SetTag("error.type", "postcopy_failed").SetStatus(ActivityStatusCode.Error, failure);
        }

        activity.Dispose();
    }
}
