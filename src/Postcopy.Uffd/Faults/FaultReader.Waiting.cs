namespace Postcopy.Uffd;

/// <content>
/// What cannot be done at once: parked faults, requests without room, prefetches, a new link. The bitmaps alone say
/// what is owed to the source (<see cref="RamBlock.Unsent"/>); the queues here are hints where to look, and a sweep
/// over the bitmaps takes their place when they overflow. So nothing is lost, and nothing is sent twice on one link.
/// </content>
internal sealed unsafe partial class FaultReader
{
    private const int ParkedCapacity = 1024;
    private const int UnsentCapacity = 1024;
    private const long FirstRetry = 50_000;
    private const long LongestRetry = 5_000_000;
    private const long LongestRequestRetry = 1_000_000;
    private const long DisconnectedRetry = 10_000_000;

    // A length on the wire has 32 bits, and a request is answered as one piece: keep them moderate.
    internal const long LongestRequest = 16 << 20;

    // Requests of one turn before faults are read again.
    private const int SendsPerTurn = 256;

    private readonly Parked[] _parked = new Parked[ParkedCapacity];
    private readonly (RamBlock Block, long Page)[] _unsent = new (RamBlock, long)[UnsentCapacity];
    private readonly RequestRing _prefetch = new(capacity: 256);

    private int _parkedCount;
    private bool _parkedOverflow;
    private long _retryPause;
    private long _retryAt;

    private int _unsentHead;
    private int _unsentCount;
    private int _sweepWanted;
    private bool _sweeping;
    private int _sweepBlock;
    private long _sweepPage;
    private long _requestPause;
    private long _requestAt;
    private IPageRequester? _refusedBy;

    private IPageRequester? _requester;
    private int _resend;
    private int _sendsLeft;

    private readonly record struct Parked(FaultSource Source, RamBlock Block, long Page, bool Minor, uint ThreadId, long ReadAt, long Since, bool Staged)
    {
        internal bool IsSameFault(in Parked other) =>
            Page == other.Page && ThreadId == other.ThreadId && Block == other.Block && Source == other.Source && Staged == other.Staged;
    }

    /// <summary>The link to the source; null while it is down. Setting one sends everything that is open again.</summary>
    internal void SetRequester(IPageRequester? requester)
    {
        if (requester is not null)
        {
            // Model: tests/models/recover.pml.
            // Before the link itself: whoever sees the link sees that everything open is still to be sent on it.
            Volatile.Write(ref _resend, 1);
        }

        Volatile.Write(ref _requester, requester);
        Kick();
    }

    /// <summary>
    /// Another thread set the requested bits of these pages, and hands the duty to tell the source of them to the fault
    /// thread, the only one that talks to the requester. Never waits.
    /// </summary>
    internal void Prefetch(RamBlock block, long firstPage, long pages)
    {
        _ = block.Unsent.SetRange(firstPage, pages);
        int shift = block.PageSize.Shift;
        if (!_prefetch.TryEnqueue(new PageRequest(block, firstPage << shift, pages << shift)))
        {
            Volatile.Write(ref _sweepWanted, 1);
        }

        Kick();
    }

    /// <summary>Nanoseconds until something must be tried again; -1 when nothing waits.</summary>
    private long NextRetry()
    {
        long next = long.MaxValue;
        if (_parkedCount > 0)
        {
            next = _retryAt;
        }

        if (Volatile.Read(ref _requester) is { } requester &&
            (_unsentCount > 0 || _sweeping || Volatile.Read(ref _sweepWanted) != 0 || Volatile.Read(ref _resend) != 0 || _prefetch.HasItems))
        {
            next = Math.Min(next, requester == _refusedBy ? _requestAt : 0);
        }

        return next == long.MaxValue ? -1 : Math.Max(0, next - Now());
    }

    private bool IsParked(in Parked fault)
    {
        for (int i = 0; i < _parkedCount; i++)
        {
            if (_parked[i].IsSameFault(fault))
            {
                return true;
            }
        }

        return false;
    }

    private void Park(in Parked fault)
    {
        if (_parkedCount == ParkedCapacity)
        {
            // The rest is woken once there is room, faults again and comes back here.
            _parkedOverflow = true;
            return;
        }

        _parked[_parkedCount++] = fault;
    }

    /// <summary>Only when it is time: messages that come in between must not turn the pauses into a spin.</summary>
    private void RetryParked()
    {
        if (_parkedCount == 0 || Now() < _retryAt)
        {
            return;
        }

        int waiting = _parkedCount;
        _parkedCount = 0;
        for (int i = 0; i < waiting; i++)
        {
            if (_parked[i].Staged)
            {
                RetryStaged(_parked[i]);
            }
            else
            {
                Settle(_parked[i], retry: true);
            }
        }

        _retryPause = Math.Min(_retryPause * 2, LongestRetry);
        _retryAt = Now() + _retryPause;
        if (_parkedOverflow && (_parkedCount == 0 || (_placer.Stretches == StretchPlacement.WholeOnFault && _parkedCount < ParkedCapacity / 2)))
        {
            _parkedOverflow = false;
            WakeEverything();
        }
    }

    /// <summary>Every waiting thread touches its page again, and the kernel delivers its fault anew.</summary>
    private void WakeEverything()
    {
        foreach (FaultSource source in Volatile.Read(ref _sources))
        {
            IReadOnlyList<AddressMap.Entry> entries = source.Map.Entries;
            for (int i = 0; i < entries.Count; i++)
            {
                _ = source.Kernel.Wake(entries[i].Range.Start, entries[i].Range.Length);
            }
        }
    }

    /// <summary>A page that this thread marked requested just now.</summary>
    private void Request(RamBlock block, long page)
    {
        // Behind others that wait for room it waits too: order is the only fairness there is. Before a new link was
        // told what is open it waits as well, or it would be part of that and be sent twice.
        IPageRequester? requester = Volatile.Read(ref _requester);
        bool ready = requester is not null && Volatile.Read(ref _resend) == 0 && _unsentCount == 0;
        if (_placer.WantsStretch(block, page, out long first))
        {
            RequestStretch(ready ? requester : null, block, page, first);
            return;
        }

        if (ready)
        {
            // A duty left over from before a discard is done with this as well.
            if (block.Unsent.Test(page))
            {
                _ = block.Unsent.TestAndClear(page);
            }

            if (Send(requester!, block, page, 1))
            {
                return;
            }
        }

        _ = block.Unsent.TestAndSet(page);
        if (_unsentCount < UnsentCapacity)
        {
            _unsent[(_unsentHead + _unsentCount++) % UnsentCapacity] = (block, page);
        }
        else
        {
            Volatile.Write(ref _sweepWanted, 1);
        }
    }

    /// <summary>
    /// Asks for the stretch of a page that this thread marked requested. What somebody else marked meanwhile is asked for by him,
    /// and what a channel has by nobody.
    /// </summary>
    private void RequestStretch(IPageRequester? requester, RamBlock block, long page, long first)
    {
        _ = block.Unsent.TestAndSet(page);
        block.Requested.SetRangeInto(first, FillingStretch.Pages, block.Unsent);
        _sendsLeft = SendsPerTurn;
        long at = first;
        if (requester is null || !SendRuns(requester, block, ref at, first + FillingStretch.Pages))
        {
            Volatile.Write(ref _sweepWanted, 1);
        }
    }

    private bool Send(IPageRequester requester, RamBlock block, long page, long pages)
    {
        int shift = block.PageSize.Shift;
        RequestOutcome outcome = requester.TryRequest(new PageRequest(block, page << shift, pages << shift));
        switch (outcome)
        {
            case RequestOutcome.Sent:
                Count(Counter.Requests);
                _requestPause = 0;
                _refusedBy = null;
                return true;
            case RequestOutcome.Busy:
                Count(Counter.RequesterBusy);
                _requestPause = Math.Clamp(_requestPause * 2, FirstRetry, LongestRequestRetry);
                break;
            default:
                // Nobody said Pause yet: look again now and then, and begin with everything that is open.
                _requestPause = DisconnectedRetry;
                Volatile.Write(ref _resend, 1);
                break;
        }

        _refusedBy = requester;
        _requestAt = Now() + _requestPause;
        return false;
    }

    private void SendWaiting()
    {
        // The flag first, the link after it: a link that is seen here is at least as new as the flag (SetRequester).
        if (Volatile.Read(ref _requester) is not { } before || (before == _refusedBy && Now() < _requestAt))
        {
            return;
        }

        if (Interlocked.Exchange(ref _resend, 0) != 0)
        {
            IReadOnlyList<RamBlock> blocks = _registry.Blocks;
            for (int i = 0; i < blocks.Count; i++)
            {
                blocks[i].MarkOpenRequestsUnsent();
            }

            Volatile.Write(ref _sweepWanted, 1);
        }

        if (Volatile.Read(ref _requester) is { } requester && SendUnsent(requester) && SendSweep(requester))
        {
            SendPrefetch(requester);
        }
    }

    private bool SendUnsent(IPageRequester requester)
    {
        _sendsLeft = SendsPerTurn;
        while (_unsentCount > 0)
        {
            if (_sendsLeft-- <= 0)
            {
                return false;
            }

            (RamBlock block, long page) = _unsent[_unsentHead];
            if (!_placer.TryPlaceStaged(block, page, patient: true) && block.TryTakeUnsent(page) && !Send(requester, block, page, 1))
            {
                _ = block.Unsent.TestAndSet(page);
                return false;
            }

            _unsentHead = (_unsentHead + 1) % UnsentCapacity;
            _unsentCount--;
        }

        return true;
    }

    private bool SendSweep(IPageRequester requester)
    {
        IReadOnlyList<RamBlock> blocks = _registry.Blocks;
        while (true)
        {
            if (!_sweeping)
            {
                if (Interlocked.Exchange(ref _sweepWanted, 0) == 0)
                {
                    return true;
                }

                _sweeping = true;
                _sweepBlock = 0;
                _sweepPage = 0;
            }

            for (; _sweepBlock < blocks.Count; _sweepBlock++, _sweepPage = 0)
            {
                if (!SendRuns(requester, blocks[_sweepBlock], ref _sweepPage, blocks[_sweepBlock].PageCount))
                {
                    return false;
                }
            }

            _sweeping = false;
        }
    }

    private void SendPrefetch(IPageRequester requester)
    {
        while (_prefetch.TryPeek(out PageRequest request))
        {
            RamBlock block = request.Block;
            long page = block.PageSize.IndexOf(request.Offset);
            if (!SendRuns(requester, block, ref page, page + (request.Length >> block.PageSize.Shift)))
            {
                return;
            }

            _prefetch.Drop();
        }
    }

    /// <summary>Sends what is owed in [page, end) of a block, neighbours together; false when the link took no more.</summary>
    private bool SendRuns(IPageRequester requester, RamBlock block, ref long page, long end)
    {
        long most = Math.Max(1, LongestRequest >> block.PageSize.Shift);
        while (page < end && block.TryFindUnsent(page, end, out long first))
        {
            if (_sendsLeft <= 0)
            {
                return false;
            }

            long pages = 0;
            while (pages < most && first + pages < end && !_placer.TryPlaceStaged(block, first + pages, patient: true) && block.TryTakeUnsent(first + pages))
            {
                pages++;
            }

            // One that is kept for its stretch is only passed over: hundreds of them must not use up the turn.
            _sendsLeft -= pages == 0 && _placer.IsWanted(block, PostcopyPlacer.FirstOfStretch(first)) && !block.Received.Test(first) ? 0 : 1;
            page = first;
            if (pages > 0 && !Send(requester, block, first, pages))
            {
                _ = block.Unsent.SetRange(first, pages);
                return false;
            }

            page = first + Math.Max(1, pages);
        }

        return true;
    }
}
