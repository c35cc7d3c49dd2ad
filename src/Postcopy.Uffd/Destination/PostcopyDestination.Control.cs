using Microsoft.Extensions.Logging;
using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd;

/// <content>
/// The control thread: waits for placements that somebody awaits asynchronously, watches for stalls, and says what the
/// fault thread may not say itself. It may allocate and log; it never touches guest memory.
/// </content>
public sealed partial class PostcopyDestination
{
    private readonly WakeEvent _controlKick = new();
    private readonly Lock _waitersLock = new();
    private readonly List<Waiter> _waiters = [];
    private readonly StallWatch _alarms;

    private const long LongestTick = 100;

    // How finely the timeline knows the placement rate, in milliseconds.
    private const long SeriesTick = 20;

    private readonly PlacementSeries? _series;

    private StuckFaultWatch? _stuckFaults;

    private Thread? _control;
    private bool _stopControl;
    private int _waiterCount;
    private int _rangeWaiterCount;
    private Exception? _waitersFailed;
    private Exception? _failure;

    private sealed record Waiter(RamBlock? Block, PageRange Range, TaskCompletionSource Done);

    /// <summary>
    /// Asks for a range and waits, without holding a thread, until all of it is there: for device emulation that is
    /// about to touch guest memory.
    /// </summary>
    /// <param name="block">A block of <see cref="Blocks"/>.</param>
    /// <param name="range">Bytes; grown to whole pages.</param>
    /// <param name="cancellationToken">Gives up the wait; the pages stay asked for.</param>
    /// <exception cref="PostcopyStateException">The state is not listen, running, paused or end.</exception>
    /// <exception cref="RamBlockException">The range is not inside the block.</exception>
    /// <exception cref="PostcopyFailedException">The destination failed meanwhile.</exception>
    public ValueTask EnsurePresentAsync(RamBlock block, PageRange range, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(block);
        PageRange pages = GrowToPages(block, range);
        RequireServing(nameof(EnsurePresentAsync));
        return IsComplete(block, pages) ? ValueTask.CompletedTask : WaitAsync(block, pages, cancellationToken);
    }

    /// <summary>Asks for the missing pages of a range and does not wait.</summary>
    /// <param name="block">A block of <see cref="Blocks"/>.</param>
    /// <param name="range">Bytes; grown to whole pages.</param>
    /// <exception cref="PostcopyStateException">The state is not listen, running, paused or end.</exception>
    /// <exception cref="RamBlockException">The range is not inside the block.</exception>
    public void Prefetch(RamBlock block, PageRange range)
    {
        ArgumentNullException.ThrowIfNull(block);
        PageRange pages = GrowToPages(block, range);
        RequireServing(nameof(Prefetch));
        RequestMissing(block, pages);
    }

    private static PageRange GrowToPages(RamBlock block, PageRange range)
    {
        GuestAccess.CheckRange(range.Offset, range.Length, block.UsedLength, $"RAM block '{block.Name}'");
        long start = block.PageSize.AlignDown(range.Offset);
        return new PageRange(start, block.PageSize.AlignUp(range.End) - start);
    }

    private static bool IsComplete(RamBlock? block, PageRange range) =>
        block!.Received.AllSet(block.PageSize.IndexOf(range.Offset), range.Length >> block.PageSize.Shift);

    private void RequireServing(string operation)
    {
        lock (_steps)
        {
            RequireLocked(operation, PostcopyState.Listen, PostcopyState.Running, PostcopyState.Paused, PostcopyState.End);
        }
    }

    private async ValueTask WaitAsync(RamBlock block, PageRange range, CancellationToken cancellationToken)
    {
        Waiter waiter = AddWaiter(block, range);
        RequestMissing(block, range);

        // A page that was placed before its requested bit was set told nobody.
        _controlKick.Signal();
        try
        {
            await waiter.Done.Task.WaitAsync(cancellationToken).ConfigureAwait(false);
        }
        finally
        {
            RemoveWaiter(waiter);
        }
    }

    private Waiter AddWaiter(RamBlock? block, PageRange range)
    {
        Waiter waiter = new(block, range, new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously));
        lock (_waitersLock)
        {
            if (_waitersFailed is { } why)
            {
                // The control thread looked at the list for the last time.
                waiter.Done.SetException(why);
                return waiter;
            }

            _waiters.Add(waiter);
            if (block is not null)
            {
                _ = Interlocked.Increment(ref _rangeWaiterCount);
            }

            // Published before the control thread looks at "received": the partner is OnPlaced.
            _ = Interlocked.Increment(ref _waiterCount);
        }

        _controlKick.Signal();
        return waiter;
    }

    private void RemoveWaiter(Waiter waiter)
    {
        lock (_waitersLock)
        {
            if (_waiters.Remove(waiter))
            {
                _ = Interlocked.Decrement(ref _waiterCount);
                if (waiter.Block is not null)
                {
                    _ = Interlocked.Decrement(ref _rangeWaiterCount);
                }
            }
        }
    }

    private void RequestMissing(RamBlock block, PageRange range)
    {
        int shift = block.PageSize.Shift;
        long end = range.End >> shift;
        long most = Math.Max(1, FaultReader.LongestRequest >> shift);
        for (long page = range.Offset >> shift; page < end;)
        {
            // Runs of pages that are neither received nor asked for; one request each.
            long first = page;
            while (page < end && page - first < most && !block.Received.Test(page) && !block.Requested.TestAndSet(page))
            {
                page++;
            }

            if (page == first)
            {
                if (block.Unsent.Test(page) && !block.Received.Test(page))
                {
                    // Requested, and the source not told yet: make sure that the fault thread looks for it.
                    _reader?.Prefetch(block, page, 1);
                }

                page++;
                continue;
            }

            _reader?.Prefetch(block, first, page - first);
        }
    }

    private void StartControlLocked()
    {
        _control = new Thread(ControlMain) { IsBackground = true, Name = "postcopy-control" };
        using (ExecutionContext.SuppressFlow())
        {
            _control.Start();
        }
    }

    private void StopControl()
    {
        Volatile.Write(ref _stopControl, true);
        _controlKick.Signal();
        if (_control is { IsAlive: true } control && control != Thread.CurrentThread)
        {
            control.Join();
        }
    }

    private void ControlMain()
    {
        long lookedAt = _options.TimeProvider.GetTimestamp();
        while (!Volatile.Read(ref _stopControl))
        {
            WaitForKick();
            ServeWaiters();

            // What is settled is added up here, so that the fault path has to do it less often.
            Blocktime?.Fold();
            NoteProgress(last: false);
            Trace(Placer.Statistics);
            LogRefusedPriorities();
            if (Volatile.Read(ref _failure) is { } failure)
            {
                Fail(failure);
            }

            if (State is PostcopyState.Listen or PostcopyState.Running or PostcopyState.Paused)
            {
                _stuckFaults?.Look();
            }

            // A look walks the bitmaps: by the clock, not with every kick.
            TimeSpan since = _options.TimeProvider.GetElapsedTime(lookedAt);
            if (State is PostcopyState.Listen or PostcopyState.Running && (since >= _alarms.Interval || since < TimeSpan.Zero))
            {
                lookedAt = _options.TimeProvider.GetTimestamp();
                foreach (StallAlarm alarm in _alarms.Look())
                {
                    Alarm(alarm);
                }
            }
        }

        // The fault thread has ended: what it left is the last.
        Trace(Placer.Statistics);
        LogRefusedPriorities();
        FailWaiters(new ObjectDisposedException(nameof(PostcopyDestination)));
    }

    private unsafe void WaitForKick()
    {
        Libc.PollFd poll = new() { fd = _controlKick.Descriptor, events = Libc.POLLIN };
        long tick = Math.Min((long)_alarms.Interval.TotalMilliseconds, _series is null ? LongestTick : SeriesTick);
        if (StuckFaultWatch.IsOn(_options.StuckFaultCheck))
        {
            tick = Math.Min(tick, (long)_options.StuckFaultCheck.TotalMilliseconds);
        }

        Libc.Timespec timeout = new() { tv_sec = tick / 1000, tv_nsec = tick % 1000 * 1_000_000 };
        // SAFETY: both structs are locals.
        if (Libc.ppoll(&poll, 1, &timeout, null) > 0)
        {
            _controlKick.Drain();
        }
    }

    private void NoteProgress(bool last)
    {
        PlacementStatistics placed = Placer.Statistics;
        long bytes = placed.Bytes;
        if (!last)
        {
            Rate.Sample(bytes);
        }

        _series?.Sample(Blocktime!.Now(), bytes, last);
    }

    private void ServeWaiters()
    {
        if (Volatile.Read(ref _waiterCount) == 0)
        {
            return;
        }

        List<Waiter> ready = [];
        lock (_waitersLock)
        {
            ready.AddRange(_waiters.Where(w => w.Block is null ? MissingPages() == 0 : IsComplete(w.Block, w.Range)));
        }

        foreach (Waiter waiter in ready)
        {
            RemoveWaiter(waiter);
            _ = waiter.Done.TrySetResult();
        }
    }

    private void ReportStuck(StuckFault stuck)
    {
        Log.StuckFaults(_logger, stuck.Threads, stuck.Kind);
        PostcopyEventSource.Log.StuckFaults(Vm, stuck.Kind.ToString(), stuck.Threads);
        if (stuck.Kind != StuckFaultKind.NotRead)
        {
            _reader!.CountStuck(stuck.Threads);
        }
    }

    private void Alarm(StallAlarm alarm)
    {
        Log.Stalled(_logger, alarm.Block.Name, alarm.Offset, alarm.Age);
        PostcopyEventSource.Log.Stalled(Vm, alarm.Block.Name, alarm.Offset, (long)alarm.Age.TotalMilliseconds);
        try
        {
            _options.OnStall?.Invoke(alarm);
        }
        catch (Exception e) when (e is not OutOfMemoryException)
        {
            Log.CallbackFailed(_logger, nameof(PostcopyOptions.OnStall), e);
        }
    }

    private void Fail(Exception failure)
    {
        lock (_steps)
        {
            if (State is PostcopyState.Failed or PostcopyState.End)
            {
                return;
            }

            Log.Failed(_logger, failure);
            PostcopyEventSource.Log.Failed(Vm, failure.Message);
            EnterLocked(PostcopyState.Failed, failure.Message);
            EndActivityLocked(null, failure.Message);
        }

        FailWaiters(failure);
        _ = _completion.TrySetException(failure);
    }

    private void FailWaiters(Exception why)
    {
        Waiter[] all;
        lock (_waitersLock)
        {
            _waitersFailed ??= why;
            all = [.. _waiters];
        }

        foreach (Waiter waiter in all)
        {
            RemoveWaiter(waiter);
            _ = waiter.Done.TrySetException(why);
        }
    }

    /// <summary>Pages asked for and not there yet, from the bitmaps.</summary>
    internal long CountOpenRequests()
    {
        long open = 0;
        foreach (RamBlock block in Blocks.Blocks)
        {
            for (long page = 0; block.TryFindOpenRequest(page, out page); page++)
            {
                open++;
            }
        }

        return open;
    }

    private long MissingPages()
    {
        long missing = 0;
        IReadOnlyList<RamBlock> blocks = Blocks.Blocks;
        for (int i = 0; i < blocks.Count; i++)
        {
            missing += blocks[i].MissingPages;
        }

        return missing;
    }
}
