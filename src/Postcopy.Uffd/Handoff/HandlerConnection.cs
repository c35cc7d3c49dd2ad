using System.Diagnostics;
using Microsoft.Extensions.Logging;
using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd;

/// <summary>
/// A handler that serves the owner's memory. A thread of its own watches the handler's process, its connection and its
/// sign of life, and sees when nothing is missing any more.
/// </summary>
public sealed class HandlerConnection : IDisposable
{
    private const int TickMilliseconds = 50;

    private readonly DescriptorSocket _socket;
    private readonly ProcessHandle _process;
    private readonly HandoffState _state;
    private readonly RamBlockRegistry _blocks;
    private readonly TimeSpan _timeout;
    private readonly ILogger _logger;
    private readonly WakeEvent _stop = new();
    private readonly TaskCompletionSource<HandlerEnd> _ended = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly Thread _watch;
    private int _disposed;

    internal HandlerConnection(DescriptorSocket socket, ProcessHandle process, HandoffState state, RamBlockRegistry blocks, TimeSpan timeout, ILogger logger)
    {
        _socket = socket;
        _process = process;
        _state = state;
        _blocks = blocks;
        _timeout = timeout;
        _logger = logger;
        _watch = new Thread(Watch) { IsBackground = true, Name = "postcopy-handoff" };
        _watch.UnsafeStart();
    }

    /// <summary>Why it serves no more; completes when that is so.</summary>
    public Task<HandlerEnd> Ended => _ended.Task;

    /// <summary>Fault messages that it read; up to 0.5 s old.</summary>
    public long Messages => _state.Read(HandoffState.Word.Messages);

    /// <summary>Pages that it asked its source for because of a fault; up to 0.5 s old.</summary>
    public long Requests => _state.Read(HandoffState.Word.Requests);

    /// <summary>Ends the handler's process.</summary>
    /// <returns>False when it has ended already, or this process may not.</returns>
    public bool Kill() => _process.Kill();

    /// <summary>Closes the connection: the handler ends its session, and who touches a missing page waits for the next one.</summary>
    public void Dispose()
    {
        if (Interlocked.Exchange(ref _disposed, 1) != 0)
        {
            return;
        }

        _stop.Signal();
        if (Thread.CurrentThread != _watch)
        {
            _watch.Join();
        }

        _socket.Dispose();
        _process.Dispose();
        _stop.Dispose();
    }

    private void Watch()
    {
        long beat = _state.Read(HandoffState.Word.Heartbeat);
        long beatAt = Stopwatch.GetTimestamp();
        while (true)
        {
            if (Look() is { } end)
            {
                End(end);
                return;
            }

            if (_blocks.MissingBytes == 0)
            {
                End(HandlerEnd.NothingMissing);
                return;
            }

            long now = _state.Read(HandoffState.Word.Heartbeat);
            if (now != beat)
            {
                beat = now;
                beatAt = Stopwatch.GetTimestamp();
            }
            else if (_timeout != Timeout.InfiniteTimeSpan && Stopwatch.GetElapsedTime(beatAt) > _timeout)
            {
                // It might wake up one day and swallow messages: only a dead one is out of the way.
                _ = _process.Kill();
                _ = _process.WaitForExit(_timeout);
                End(HandlerEnd.Hung);
                return;
            }
        }
    }

    private unsafe HandlerEnd? Look()
    {
        Libc.PollFd* poll = stackalloc Libc.PollFd[3];
        poll[0] = new() { fd = _stop.Descriptor, events = Libc.POLLIN };
        poll[1] = new() { fd = (int)_process.Descriptor.DangerousGetHandle(), events = Libc.POLLIN };
        poll[2] = new() { fd = (int)_socket.Handle.DangerousGetHandle(), events = Libc.POLLIN };
        Libc.Timespec time = new() { tv_nsec = TickMilliseconds * 1_000_000 };
        // SAFETY: three entries on this stack.
        if (Libc.ppoll(poll, 3, &time, null) <= 0)
        {
            return null;
        }

        if (poll[0].revents != 0)
        {
            return HandlerEnd.ClosedHere;
        }

        if (poll[1].revents != 0)
        {
            return HandlerEnd.Died;
        }

        // Its sockets close before its pidfd says that it has ended: give the latter a moment.
        return !_socket.IsAtEnd() ? null
            : _process.WaitForExit(TimeSpan.FromMilliseconds(TickMilliseconds)) ? HandlerEnd.Died
            : HandlerEnd.Closed;
    }

    private void End(HandlerEnd why)
    {
        if (why is not (HandlerEnd.NothingMissing or HandlerEnd.ClosedHere))
        {
            Log.HandlerEnded(_logger, why, _blocks.MissingBytes);
        }

        _ = _ended.TrySetResult(why);
    }
}
