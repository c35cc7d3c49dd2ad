using System.Diagnostics;
using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd;

/// <content>
/// The session's own thread: watches the owner's process and connection, shows a sign of life in the shared state, and
/// looks for stuck faults.
/// </content>
public sealed partial class HandoffSession : IPlacementObserver, IFaultObserver
{
    private const int TickMilliseconds = 100;

    private readonly TaskCompletionSource<HandoffSessionEnd> _ended = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly WakeEvent _kick = new();

    private Thread? _control;
    private int _started;
    private int _disposed;
    private bool _stop;
    private Exception? _noted;
    private long _toldAt;

    void IPlacementObserver.OnStretchLeft(RamBlock block, long firstPage)
    {
        // Memory of another process has no stretches.
    }

    void IPlacementObserver.OnPlaced(RamBlock block, bool awaited)
    {
        // The owner looks at the bitmaps themselves.
    }

    void IFaultObserver.OnReaderFailed(Exception e) => Note(e);

    void IFaultObserver.OnUnservable(RamBlock? block, long offset, PlaceOutcome outcome) =>
        Note(new PostcopyFailedException($"A fault at offset 0x{offset:x} of RAM block '{block?.Name}' cannot be served: {outcome}."));

    void IFaultObserver.OnPriorityRefused(string what, int value, int errno) => Log.PriorityRefused(_logger, what, value, errno);

    private void Note(Exception e)
    {
        _ = Interlocked.CompareExchange(ref _noted, e, null);
        _kick.Signal();
    }

    private void StartControl()
    {
        _control = new Thread(ControlMain) { IsBackground = true, Name = "postcopy-handoff" };
        _control.UnsafeStart();
    }

    private void StopControl()
    {
        Volatile.Write(ref _stop, true);
        _kick.Signal();
        if (_control is { IsAlive: true } control && control != Thread.CurrentThread)
        {
            control.Join();
        }

        _ = _ended.TrySetCanceled();
        _kick.Dispose();
    }

    private void ControlMain()
    {
        while (!Volatile.Read(ref _stop))
        {
            (bool ownerGone, bool connectionReady) = Wait();
            ShowLife();
            if (Volatile.Read(ref _noted) is { } failure)
            {
                Failure = failure;
                Log.HandoffSessionFailed(_logger, OwnerProcessId, failure);
                End(HandoffSessionEnd.Failed);
                return;
            }

            // In this order: an owner that ended in good order set the mark before it closed anything.
            if (connectionReady && _state is { HasEnded: true } && _connection.IsAtEnd())
            {
                End(HandoffSessionEnd.Completed);
                return;
            }

            if (ownerGone)
            {
                End(HandoffSessionEnd.OwnerGone);
                return;
            }

            if (connectionReady && _connection.IsAtEnd())
            {
                // The death of a process closes its sockets before its pidfd says so: what was it? Older versions of
                // Firecracker close the connection and live on, watched by the pidfd.
                if (_owner is null || _owner.WaitForExit(TimeSpan.FromMilliseconds(TickMilliseconds)))
                {
                    End(HandoffSessionEnd.OwnerGone);
                    return;
                }

                if (!IsFirecracker)
                {
                    End(HandoffSessionEnd.Closed);
                    return;
                }
            }

            _stuckFaults.Look();
        }
    }

    private unsafe (bool OwnerGone, bool ConnectionReady) Wait()
    {
        Libc.PollFd* poll = stackalloc Libc.PollFd[3];
        poll[0] = new() { fd = _kick.Descriptor, events = Libc.POLLIN };
        poll[1] = new() { fd = _owner is null ? -1 : (int)_owner.Descriptor.DangerousGetHandle(), events = Libc.POLLIN };

        // A connection that is at its end stays readable: for Firecracker it is looked at once a tick only.
        poll[2] = new() { fd = IsFirecracker && _owner is not null ? -1 : (int)_connection.Handle.DangerousGetHandle(), events = Libc.POLLIN };
        Libc.Timespec time = new() { tv_nsec = TickMilliseconds * 1_000_000 };
        // SAFETY: three entries on this stack; negative descriptors are skipped by the kernel.
        if (Libc.ppoll(poll, 3, &time, null) <= 0)
        {
            return (false, false);
        }

        if (poll[0].revents != 0)
        {
            _kick.Drain();
        }

        return (poll[1].revents != 0, poll[2].revents != 0);
    }

    private void ShowLife()
    {
        if (_state is not { } state)
        {
            return;
        }

        state.Increment(HandoffState.Word.Heartbeat);
        long now = Stopwatch.GetTimestamp();
        if (_toldAt == 0 || Stopwatch.GetElapsedTime(_toldAt, now) >= TimeSpan.FromMilliseconds(500))
        {
            _toldAt = now;
            FaultStatistics faults = Faults;
            PlacementStatistics placed = Placer.Statistics;
            state.Write(HandoffState.Word.Messages, faults.Messages);
            state.Write(HandoffState.Word.Requests, faults.Requests);
            state.Write(HandoffState.Word.PlacedPages, placed.Bytes >> PageSize.Host.Shift);
            state.Write(HandoffState.Word.StuckFaults, faults.StuckFaults);
        }
    }

    private void ReportStuck(StuckFault stuck)
    {
        Log.StuckFaults(_logger, stuck.Threads, stuck.Kind);
        PostcopyEventSource.Log.StuckFaults("", stuck.Kind.ToString(), stuck.Threads);
        if (stuck.Kind != StuckFaultKind.NotRead)
        {
            _reader.CountStuck(stuck.Threads);
        }
    }

    private void End(HandoffSessionEnd why)
    {
        // Requests that were not sent yet are of no use to anybody, and the transport may stop.
        _reader.SetRequester(null);
        Log.HandoffSessionEnded(_logger, OwnerProcessId, why);
        _ = _ended.TrySetResult(why);
    }
}
