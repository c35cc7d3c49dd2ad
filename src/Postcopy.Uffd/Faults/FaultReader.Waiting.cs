namespace Postcopy.Uffd;

/// <content>What cannot be done at once: parked zero-fills, requests without room, prefetches, a new link.</content>
internal sealed unsafe partial class FaultReader
{
    private const int ParkedCapacity = 1024;
    private const int UnsentCapacity = 1024;
    private const long FirstRetry = 50_000;
    private const long LongestRetry = 5_000_000;
    private const long LongestRequestRetry = 1_000_000;
    private const long DisconnectedRetry = 10_000_000;

    private readonly Parked[] _parked = new Parked[ParkedCapacity];
    private readonly PageRequest[] _unsent = new PageRequest[UnsentCapacity];
    private readonly RequestRing _prefetch = new(capacity: 256);

    private int _parkedCount;
    private bool _parkedOverflow;
    private int _unsentCount;
    private long _retryPause;
    private long _requestPause;

    private IPageRequester? _requester;
    private int _resend;
    private int _resendBlock;
    private long _resendPage;
    private bool _resending;

    private readonly record struct Parked(RamBlock Block, long Page, bool Minor, uint ThreadId, long ReadAt);

    /// <summary>The link to the source; null while it is down. Setting one sends everything that is open again.</summary>
    internal void SetRequester(IPageRequester? requester)
    {
        Volatile.Write(ref _requester, requester);
        if (requester is not null)
        {
            Volatile.Write(ref _resend, 1);
        }

        Kick();
    }

    /// <summary>Hands a request of another thread to the fault thread, the only one that talks to the requester.</summary>
    internal bool TryPrefetch(in PageRequest request)
    {
        bool taken = _prefetch.TryEnqueue(request);
        Kick();
        return taken;
    }

    /// <summary>Nanoseconds until something must be tried again; -1 when nothing waits.</summary>
    private long NextRetry()
    {
        bool linked = Volatile.Read(ref _requester) is not null;
        bool sending = linked && (_unsentCount > 0 || _resending || Volatile.Read(ref _resend) != 0 || _prefetch.HasItems);
        return (_parkedCount > 0 || _parkedOverflow, sending) switch
        {
            (true, true) => Math.Min(_retryPause, _requestPause),
            (true, false) => _retryPause,
            (false, true) => _requestPause,
            _ => -1,
        };
    }

    private void Park(RamBlock block, long page, bool minor, uint threadId, long readAt)
    {
        Count(Counter.Parked);
        if (_parkedCount == ParkedCapacity)
        {
            // The rest is woken once there is room, faults again and comes back here.
            _parkedOverflow = true;
            return;
        }

        if (_parkedCount == 0)
        {
            _retryPause = FirstRetry;
        }

        _parked[_parkedCount++] = new Parked(block, page, minor, threadId, readAt);
    }

    private void RetryParked()
    {
        if (_parkedCount == 0)
        {
            return;
        }

        int waiting = _parkedCount;
        _parkedCount = 0;
        for (int i = 0; i < waiting; i++)
        {
            Parked p = _parked[i];
            Settle(p.Block, p.Page, p.Minor, p.ThreadId, p.ReadAt);
        }

        _retryPause = _parkedCount == 0 ? FirstRetry : Math.Min(_retryPause * 2, LongestRetry);
        if (_parkedCount == 0 && _parkedOverflow)
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

    private void Request(in PageRequest request)
    {
        // Behind others that wait for room it waits too: order is the only fairness there is.
        RequestOutcome outcome = _unsentCount > 0 ? RequestOutcome.Busy : Send(request);
        if (outcome == RequestOutcome.Busy)
        {
            if (_unsentCount < UnsentCapacity)
            {
                _unsent[_unsentCount++] = request;
            }
            else
            {
                // The bitmaps know what is open; a request that is sent twice is harmless, a lost one is not.
                Volatile.Write(ref _resend, 1);
            }
        }
    }

    private RequestOutcome Send(in PageRequest request)
    {
        IPageRequester? requester = Volatile.Read(ref _requester);
        RequestOutcome outcome = requester?.TryRequest(request) ?? RequestOutcome.Disconnected;
        switch (outcome)
        {
            case RequestOutcome.Sent:
                Count(Counter.Requests);
                _requestPause = 0;
                break;
            case RequestOutcome.Busy:
                Count(Counter.RequesterBusy);
                _requestPause = Math.Clamp(_requestPause * 2, FirstRetry, LongestRequestRetry);
                break;
            default:
                // Nobody said Pause yet: look again now and then, from the bitmaps.
                _requestPause = DisconnectedRetry;
                _resending = true;
                _resendBlock = 0;
                _resendPage = 0;
                break;
        }

        return outcome;
    }

    private void SendWaiting()
    {
        if (Volatile.Read(ref _requester) is null)
        {
            return;
        }

        if (Interlocked.Exchange(ref _resend, 0) != 0)
        {
            // A new link: the bitmaps say what is open, the queue is part of that.
            _unsentCount = 0;
            _resending = true;
            _resendBlock = 0;
            _resendPage = 0;
        }

        if (SendUnsent() && SendResend())
        {
            SendPrefetch();
        }
    }

    private bool SendUnsent()
    {
        int sent = 0;
        while (sent < _unsentCount)
        {
            PageRequest request = _unsent[sent];
            if (!request.Block.Received.AllSet(request.Block.PageSize.IndexOf(request.Offset), request.Length >> request.Block.PageSize.Shift) &&
                Send(request) != RequestOutcome.Sent)
            {
                break;
            }

            sent++;
        }

        Array.Copy(_unsent, sent, _unsent, 0, _unsentCount - sent);
        _unsentCount -= sent;
        return _unsentCount == 0;
    }

    private bool SendResend()
    {
        IReadOnlyList<RamBlock> blocks = _registry.Blocks;
        while (_resending)
        {
            if (_resendBlock == blocks.Count)
            {
                _resending = false;
                break;
            }

            RamBlock block = blocks[_resendBlock];
            if (!block.TryFindOpenRequest(_resendPage, out long page))
            {
                _resendBlock++;
                _resendPage = 0;
                continue;
            }

            // The cursor moves first: a link that is down sets it back to the start.
            _resendPage = page + 1;
            RequestOutcome outcome = Send(new PageRequest(block, page << block.PageSize.Shift, block.PageSize.Bytes));
            if (outcome != RequestOutcome.Sent)
            {
                _resendPage = outcome == RequestOutcome.Busy ? page : 0;
                return false;
            }
        }

        return true;
    }

    private void SendPrefetch()
    {
        while (_prefetch.TryPeek(out PageRequest request))
        {
            if (Send(request) != RequestOutcome.Sent)
            {
                return;
            }

            _prefetch.Drop();
        }
    }
}
