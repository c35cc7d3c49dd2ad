using Microsoft.Extensions.Logging;

namespace Postcopy.Uffd;

/// <content>The end: complete, or closed with pages missing.</content>
public sealed partial class PostcopyDestination
{
    // Destinations that were closed with KeepWaiting, with their descriptors: alive for as long as the process (hazard H11).
    private static readonly List<PostcopyDestination> s_keptForever = [];

    private bool _frozen;

    /// <summary>
    /// Waits until nothing is missing, then ends in this order: verify the bitmaps, stop serving faults, unregister,
    /// give huge pages and locks back, and only then tell the source (hazard H35).
    /// </summary>
    /// <param name="tellSource">
    /// Tells the source that all pages are confirmed (QEMU: SHUT 0), after which it may forget them. When it throws, the
    /// guest is complete all the same and the exception is passed on.
    /// </param>
    /// <param name="cancellationToken">Gives up waiting; nothing is changed.</param>
    /// <exception cref="PostcopyStateException">The state is not listen, running or paused.</exception>
    /// <exception cref="PostcopyFailedException">The destination failed meanwhile.</exception>
    public async Task<CompletionReport> CompleteAsync(Func<CompletionReport, ValueTask>? tellSource = null, CancellationToken cancellationToken = default)
    {
        lock (_steps)
        {
            RequireLocked(nameof(CompleteAsync), PostcopyState.Listen, PostcopyState.Running, PostcopyState.Paused);
        }

        Waiter waiter = AddWaiter(null, default);
        try
        {
            await waiter.Done.Task.WaitAsync(cancellationToken).ConfigureAwait(false);
        }
        finally
        {
            RemoveWaiter(waiter);
        }

        CompletionReport report = EndCompleted();
        try
        {
            if (tellSource is not null)
            {
                await tellSource(report).ConfigureAwait(false);
            }
        }
        finally
        {
            _ = _completion.TrySetResult(report);
        }

        return report;
    }

    /// <summary>
    /// Frees everything: threads, descriptors, bookkeeping. What happens to pages that never came is the caller's choice.
    /// </summary>
    /// <param name="policy">What to do about missing pages; without meaning when there are none.</param>
    /// <exception cref="PostcopyIncompleteException">
    /// The policy is Fail and pages are missing, or it is Poison and the kernel cannot; nothing was closed.
    /// </exception>
    /// <exception cref="InvalidOperationException">The caller is the fault thread, out of a page requester.</exception>
    public ValueTask CloseAsync(MissingPagePolicy policy)
    {
        if (policy is not (MissingPagePolicy.KeepWaiting or MissingPagePolicy.Poison or MissingPagePolicy.Fail))
        {
            throw new ArgumentOutOfRangeException(nameof(policy), policy, "Say what happens to missing pages: KeepWaiting, Poison or Fail.");
        }

        lock (_steps)
        {
            if (_closed)
            {
                return ValueTask.CompletedTask;
            }

            bool registered = _uffd is not null && Blocks.Blocks.Any(b => b.Primary is not null);
            long missing = registered ? MissingPages() : 0;
            if (missing > 0)
            {
                CloseIncompleteLocked(policy, missing);
            }
            else if (registered)
            {
                _reader?.Stop();
                UnregisterLocked(complete: true);
                RestoreMemoryLocked();
            }

            _closed = true;
            if (State is not (PostcopyState.End or PostcopyState.Failed))
            {
                EnterLocked(missing > 0 ? PostcopyState.Failed : PostcopyState.End);
            }

            EndActivityLocked(null, missing > 0 ? $"closed with {missing} pages missing ({policy})" : State == PostcopyState.Failed ? "failed" : null);
        }

        // Not under the lock: the control thread may be waiting for it.
        StopControl();
        Release();
        return ValueTask.CompletedTask;
    }

    /// <summary>
    /// Closes what is complete. With pages missing it keeps the guest frozen (<see cref="MissingPagePolicy.KeepWaiting"/>)
    /// and logs an error: call <see cref="CloseAsync"/> and choose.
    /// </summary>
    public ValueTask DisposeAsync() => CloseAsync(MissingPagePolicy.KeepWaiting);

    private CompletionReport EndCompleted()
    {
        lock (_steps)
        {
            RequireLocked(nameof(CompleteAsync), PostcopyState.Listen, PostcopyState.Running, PostcopyState.Paused);
            foreach (RamBlock block in Blocks.Blocks)
            {
                if (!block.Received.AllSet(0, block.PageCount))
                {
                    throw new PostcopyIncompleteException($"RAM block '{block.Name}' lost pages while it was completed; was it discarded? {block}");
                }
            }

            _reader!.Stop();
            TimeSpan duration = _options.TimeProvider.GetElapsedTime(_listenAt);
            UnregisterLocked(complete: true);

            // A balloon that raised its event while the reader stopped would wait for it to be read for ever (hazard H10).
            _uffd!.Dispose();
            RestoreMemoryLocked();
            Blocks.Thaw();
            EnterLocked(PostcopyState.End);
            NoteProgress(last: true);
            CompletionReport report = new()
            {
                TotalBytes = Blocks.TotalLength,
                Duration = duration,
                Placement = Placer.Statistics,
                Faults = _reader.Statistics,
                Blocktime = Blocktime?.Snapshot(),
                PlacementSamples = PlacementSamples,
            };
            Log.Completed(_logger, report.TotalBytes, duration, report.Faults.Requests);
            PostcopyEventSource.Log.Completed(Vm, report.TotalBytes, (long)duration.TotalMilliseconds);
            EndActivityLocked(report, null);
            return report;
        }
    }

    private void CloseIncompleteLocked(MissingPagePolicy policy, long missing)
    {
        string what = DescribeMissing();
        switch (policy)
        {
            case MissingPagePolicy.Fail:
                throw new PostcopyIncompleteException($"The destination is not closed: {what}.");

            case MissingPagePolicy.Poison:
                if (!Grant!.Has(UffdFeatures.Poison))
                {
                    throw new PostcopyIncompleteException(
                        $"The destination is not closed: {what}, and this kernel has no UFFDIO_POISON (Linux 6.6); close with KeepWaiting.");
                }

                // The reader still runs: while events are pending, poisoning waits for it to read them.
                foreach (RamBlock block in Blocks.Blocks)
                {
                    PlaceResult result = Placer.PoisonMissing(block);
                    if (!result.IsReceived && result.Outcome != PlaceOutcome.TargetGone)
                    {
                        throw new PostcopyIncompleteException($"RAM block '{block.Name}' could not be poisoned: {result}.");
                    }
                }

                Log.Poisoned(_logger, missing, what);
                _reader?.Stop();
                UnregisterLocked(complete: false);
                break;

            default:
                Log.Frozen(_logger, missing, what);
                _frozen = true;
                if (_gate is null)
                {
                    _reader?.Stop();
                }
                else
                {
                    // Its events must go on being read, or whoever unmaps the memory waits for ever.
                    _reader?.SetRequester(null);
                }

                lock (s_keptForever)
                {
                    s_keptForever.Add(this);
                }

                break;
        }

        Blocktime?.Abandon(Blocktime.Now());
        _ = _completion.TrySetException(new PostcopyIncompleteException($"The destination was closed with pages missing: {what}."));
    }

    /// <summary>How many pages are missing and where the first is, in words.</summary>
    public string DescribeMissing()
    {
        RamBlock? block = Blocks.Blocks.FirstOrDefault(b => b.MissingPages > 0);
        return block is not null && block.Received.TryFindNextClear(0, out long page)
            ? $"{MissingPages()} pages are missing, the first at offset 0x{page << block.PageSize.Shift:x} of RAM block '{block.Name}'"
            : "no page is missing";
    }

    private void Release()
    {
        PostcopyMetrics.Of(_options.Meter).Detach(this);
        if (!_frozen)
        {
            _reader?.Dispose();
            foreach (UffdHandle mirror in _mirrorHandles)
            {
                mirror.DangerousRelease();
            }

            _uffd?.Dispose();
        }

        Blocks.Thaw();
        _ = _completion.TrySetCanceled();
        _controlKick.Dispose();
    }
}
