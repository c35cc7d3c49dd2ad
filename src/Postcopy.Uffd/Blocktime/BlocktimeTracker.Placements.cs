namespace Postcopy.Uffd;

// The closing side: placers, and whoever ends a stall by other means. Any number of threads at once.
public sealed partial class BlocktimeTracker
{
    // Up to here a range is looked up page by page; a longer one costs a look at every open fault instead.
    private const int PagesByFilter = 32;

    private long _tooLate;
    private long _otherUnresolved;

    /// <summary>
    /// Records a placement whose waiters have been woken: ends every stall in the range. Allocates nothing, never waits, never throws.
    /// </summary>
    /// <param name="start">The first byte placed and woken.</param>
    /// <param name="length">The number of bytes placed and woken.</param>
    /// <param name="wokenAt">The stamp taken right after the placing ioctl, or after WAKE if placing did not wake.</param>
    /// <param name="calledAt">The stamp before that ioctl, if the caller has one: the difference is reported as stamp delay.</param>
    /// <remarks>
    /// Mark the page received before this call. The full fence at its beginning is the placer's half of the bargain
    /// described at <see cref="Begin"/>. Discarding a page must exclude placements of it that are still to be recorded here.
    /// </remarks>
    public void End(nuint start, nuint length, long wokenAt, long calledAt = long.MaxValue)
    {
        InterleavingPoint.Yield("end.enter");
        // Full fence: the caller's store of "received" before our look at the filter. Partner of Publish. Model: tests/models/tracker.pml.
        Interlocked.MemoryBarrier();
        InterleavingPoint.Yield("end.fenced");
        if (length == 0)
        {
            return;
        }

        nuint page = start >> _pageShift;
        nuint last = unchecked(start + (length - 1)) >> _pageShift;
        if (page == last)
        {
            if (_waited.MayWait(page))
            {
                EndPage(page, start & _pageMask, wokenAt, calledAt);
            }
        }
        else
        {
            EndRange(page, last, wokenAt, calledAt);
        }
    }

    /// <summary>Says that the vCPU's thread returned from KVM_RUN to user code: it waits no longer, though its page may be missing.</summary>
    /// <param name="slot">The vCPU.</param>
    /// <param name="at">When it returned.</param>
    /// <exception cref="ArgumentException">The slot is null or of another tracker.</exception>
    public void LeaveGuest(VcpuSlot slot, long at)
    {
        CheckOwner(slot);
        RaiseTo(ref slot.LeftAt, at);
        int first = slot.Index * VcpuSlot.LiveWaits;
        // A fault read later belongs to the thread's next entry of the guest.
        CloseAll(first, first + VcpuSlot.LiveWaits, at, WaitEnd.LeftGuest);
    }

    /// <summary>Says that the migration failed or was given up: ends every open stall, to be reported as unresolved.</summary>
    /// <param name="at">When; faults read later are not touched.</param>
    public void Abandon(long at)
    {
        RaiseTo(ref _abandonedAt, at);
        CloseAll(0, Volatile.Read(ref _slotCount) * VcpuSlot.LiveWaits, at, WaitEnd.Unresolved);
        CloseAll(_firstOther, _live.Length, at, WaitEnd.Unresolved);
    }

    private static void RaiseTo(ref long moment, long at)
    {
        long seen = Volatile.Read(ref moment);
        while (at > seen)
        {
            long before = Interlocked.CompareExchange(ref moment, at, seen);
            if (before == seen)
            {
                break;
            }

            seen = before;
        }

        // Full fence between the moment and our look at the open faults; partner of the end of Begin. Model: tests/models/tracker.pml.
        Interlocked.MemoryBarrier();
        InterleavingPoint.Yield("moment.raised");
    }

    private void EndPage(nuint number, nuint address, long wokenAt, long calledAt)
    {
        int bucket = _waited.Bucket(number);
        for (int i = bucket; i < bucket + WaitedPages.EntriesInBucket; i++)
        {
            int waiter = _waited.EntryWaiter(i, number);
            if (waiter >= 0)
            {
                CloseInRange(waiter, address, ~_pageMask, wokenAt, calledAt);
            }
        }

        if (_waited.HasOverflow(bucket))
        {
            EndAllInRange(address, ~_pageMask, wokenAt, calledAt);
        }
    }

    private void EndRange(nuint page, nuint last, long wokenAt, long calledAt)
    {
        if (last < page)
        {
            // A range beyond the end of the address space ends there.
            last = nuint.MaxValue >> _pageShift;
        }

        if (last - page < PagesByFilter)
        {
            for (; page <= last; page++)
            {
                if (_waited.MayWait(page))
                {
                    EndPage(page, page << _pageShift, wokenAt, calledAt);
                }
            }
        }
        else
        {
            EndAllInRange(page << _pageShift, ((last - page) << _pageShift) | ~_pageMask, wokenAt, calledAt);
        }
    }

    private void EndAllInRange(nuint address, nuint lastOffset, long wokenAt, long calledAt)
    {
        int vcpus = Volatile.Read(ref _slotCount) * VcpuSlot.LiveWaits;
        for (int live = 0; live < vcpus; live++)
        {
            CloseInRange(live, address, lastOffset, wokenAt, calledAt);
        }

        for (int live = _firstOther; live < _live.Length; live++)
        {
            CloseInRange(live, address, lastOffset, wokenAt, calledAt);
        }
    }

    private void CloseInRange(int live, nuint address, nuint lastOffset, long wokenAt, long calledAt)
    {
        // Acquire, partner of the reader's release store in Publish.
        long word = Volatile.Read(ref _live[live]);
        if (word == 0)
        {
            return;
        }

        ref WaitRecord record = ref RecordOf(live, word - 1);
        // Acquire, partner of the exchange in Publish. The fields read below belong to this sequence number, or the
        // compare-and-swap in Close fails.
        if (WaitRecord.IsOpen(Volatile.Read(ref record.State), word - 1) && unchecked(record.Page - address) <= lastOffset)
        {
            InterleavingPoint.Yield("end.found");
            long stampDelay = calledAt <= wokenAt ? wokenAt - calledAt : -1;
            if (Close(ref record, live, word - 1, wokenAt, stampDelay, WaitEnd.Placed) && live < _firstOther)
            {
                FoldIfHalfFull(_slots[live / VcpuSlot.LiveWaits]);
            }
        }
    }

    private void CloseAll(int first, int beyond, long at, WaitEnd cause)
    {
        for (int live = first; live < beyond; live++)
        {
            long word = Volatile.Read(ref _live[live]);
            if (word == 0)
            {
                continue;
            }

            ref WaitRecord record = ref RecordOf(live, word - 1);
            if (WaitRecord.IsOpen(Volatile.Read(ref record.State), word - 1) && record.Start <= at)
            {
                Close(ref record, live, word - 1, at, -1, cause);
            }
        }
    }

    private ref WaitRecord RecordOf(int live, long sequence)
    {
        if (live < _firstOther)
        {
            return ref _slots[live / VcpuSlot.LiveWaits].Record(sequence);
        }

        return ref _others[live - _firstOther];
    }

    // Closes the episode if it is open; true for exactly one party.
    private bool Close(ref WaitRecord record, int live, long sequence, long end, long stampDelay, WaitEnd cause)
    {
        long word;
        do
        {
            // Acquire, partner of Confirm's compare-and-swap: the only change that leaves the episode open.
            word = Volatile.Read(ref record.State);
            if (!WaitRecord.IsOpen(word, sequence))
            {
                return false;
            }

            InterleavingPoint.Yield("close");
        }
        while (Interlocked.CompareExchange(ref record.State, ClosingWord(word), word) != word);

        long start = record.Start;
        if ((word & WaitRecord.PhaseMask) == WaitRecord.Open && cause == WaitEnd.Placed && end <= start)
        {
            // Woken before the message was read, and nobody saw the page missing since: no stall, no episode (case 3).
            Interlocked.Increment(ref _tooLate);
            Release(ref record, live, WaitRecord.Word(sequence, WaitRecord.Cancelled));
            return true;
        }

        record.End = Math.Max(start, end);
        record.StampDelay = stampDelay;
        record.Cause = cause;
        if (live >= _firstOther)
        {
            CountOther(record.End - start, cause);
        }

        InterleavingPoint.Yield("closing");
        Release(ref record, live, WaitRecord.Word(sequence, WaitRecord.Closed));
        return true;
    }

    private static long ClosingWord(long word) => (word & ~WaitRecord.PhaseMask)
        | ((word & WaitRecord.PhaseMask) == WaitRecord.Confirmed ? WaitRecord.Closing : WaitRecord.Cancelling);

    private void CountOther(long latency, WaitEnd cause)
    {
        if (cause == WaitEnd.Unresolved)
        {
            Interlocked.Increment(ref _otherUnresolved);
        }
        else
        {
            _otherLatency.AddShared(latency);
        }
    }

    private void Release(ref WaitRecord record, int live, long word)
    {
        _waited.Remove(record.Page >> _pageShift, record.FilterEntry);
        if (live < _firstOther)
        {
            // The record stays until the sweep has consumed it, its live word is free at once.
            Volatile.Write(ref _live[live], 0);
            InterleavingPoint.Yield("released");
            // Release, partner of the sweep's acquire read: End and Cause before Closed.
            Volatile.Write(ref record.State, word);
        }
        else
        {
            // The live word says that the record may be used again: it comes last. Partner: BeginOther.
            Volatile.Write(ref record.State, word);
            InterleavingPoint.Yield("other.released");
            Volatile.Write(ref _live[live], 0);
        }
    }
}
