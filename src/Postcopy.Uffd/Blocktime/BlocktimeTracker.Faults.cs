namespace Postcopy.Uffd;

// The fault reader's side. One reader reads all descriptors of a VM: the kernel reports one thread's faults in order,
// and several readers would lose that order. Because there is one, allocation of records and filter entries
// needs no compare-and-swap, and each ring is sorted by start.
public sealed partial class BlocktimeTracker
{
    private long _otherSequence;
    private int _otherCursor;
    private long _otherDuplicates;
    private long _otherOverflow;
    private long _cancelled;
    private long _assumed;

    /// <summary>Records a fault message. Fault reader only; allocates nothing, never waits, never throws.</summary>
    /// <param name="threadId">The thread of the message; 0 or an unknown one is no vCPU.</param>
    /// <param name="page">The address of the message; rounded down to <see cref="BlocktimeOptions.PageSize"/>.</param>
    /// <param name="readAt">When the message was read, on the clock of <see cref="Now"/>; one stamp for a batch will do.</param>
    /// <param name="wokeAt">When the reader woke for this message (poll returned), if it knows: their difference is reported as reader delay.</param>
    /// <returns>Whether an episode began. If so, look again whether the page was received, then confirm or cancel.</returns>
    /// <remarks>
    /// The waiter is published with a full fence before this returns. The caller's look at "received" therefore comes after it;
    /// a placer that sets "received" before it calls <see cref="End"/> either finds the waiter or is seen by that look.
    /// </remarks>
    public BeginResult Begin(uint threadId, nuint page, long readAt, long wokeAt = long.MaxValue)
    {
        page &= _pageMask;
        if (readAt > _readerAt)
        {
            // Release, before the record: a sweep that reads this horizon (acquire) sees every record that starts earlier.
            Volatile.Write(ref _readerAt, readAt);
        }

        // Acquire, partner of PublishThreadsLocked.
        VcpuSlot? slot = threadId == 0 ? null : Volatile.Read(ref _threads).Find(threadId);
        if (slot is null)
        {
            return BeginOther(threadId, page, readAt);
        }

        long head = slot.Head;
        long start = readAt;
        if (head > 0)
        {
            ref WaitRecord last = ref slot.Record(head - 1);
            // Acquire, partner of the closing compare-and-swap.
            if (last.Page == page && WaitRecord.IsOpen(Volatile.Read(ref last.State), head - 1))
            {
                Volatile.Write(ref slot.Duplicates, slot.Duplicates + 1);
                return default;
            }

            // One thread's messages come in order; a stamp that does not must not make the previous interval negative.
            start = Math.Max(start, last.Start);
        }

        // Acquire, partner of the sweep's release store: what it consumed may be overwritten.
        if (head - Volatile.Read(ref slot.Tail) >= _ringCapacity - (_ringCapacity / 4))
        {
            FoldFor(slot);
        }

        int live = FindLiveWord(slot, page, start, out int older);
        if (live < 0 || head - Volatile.Read(ref slot.Tail) >= _ringCapacity)
        {
            return Untracked(slot, start);
        }

        ref WaitRecord record = ref slot.Record(head);
        record.ReadDelay = wokeAt <= readAt ? readAt - wokeAt : -1;
        record.OlderLive = (short)(older == live ? -1 : older);
        Publish(ref record, page, start, threadId, head, live);
        // Release, partner of the sweep's acquire read: a record below Head is published.
        Volatile.Write(ref slot.Head, head + 1);
        if (slot.UntrackedSince != long.MinValue)
        {
            Volatile.Write(ref slot.UntrackedTime, slot.UntrackedTime + Math.Max(0, start - slot.UntrackedSince));
            slot.UntrackedSince = long.MinValue;
        }

        // Partner of LeaveGuest and Abandon, which store the moment, pass a full fence and then look at the open faults:
        // the fence in Publish stands between our record and these reads.
        long left = Volatile.Read(ref slot.LeftAt);
        if (start <= left || Volatile.Read(ref slot.Removed))
        {
            Close(ref record, live, head, left, -1, WaitEnd.LeftGuest);
        }

        long abandoned = Volatile.Read(ref _abandonedAt);
        if (start <= abandoned)
        {
            Close(ref record, live, head, abandoned, -1, WaitEnd.Unresolved);
        }

        return new BeginResult(BeginKind.New, new BlocktimeTicket(slot.Index, head));
    }

    /// <summary>Says that the page of a new episode was still missing after <see cref="Begin"/>; from here on readings include it.</summary>
    /// <param name="ticket">The episode. If it has been closed meanwhile, nothing happens.</param>
    public void Confirm(BlocktimeTicket ticket)
    {
        if (TryResolve(ticket, out int live))
        {
            InterleavingPoint.Yield("confirm");
            // Partner of the closing compare-and-swap: one of the two wins, and the sequence number names the episode.
            long open = WaitRecord.Word(ticket.Sequence, WaitRecord.Open);
            ref WaitRecord record = ref RecordOf(live, ticket.Sequence);
            if (Interlocked.CompareExchange(ref record.State, WaitRecord.Word(ticket.Sequence, WaitRecord.Confirmed), open) == open
                && record.OlderLive >= 0)
            {
                SettleOlder(ref record, ticket);
            }
        }
    }

    /// <summary>Says that the page of a new episode had been received already: no stall, no episode. The thread may need a wake.</summary>
    /// <param name="ticket">The episode. If it has been closed or confirmed, nothing happens.</param>
    public void Cancel(BlocktimeTicket ticket)
    {
        if (!TryResolve(ticket, out int live))
        {
            return;
        }

        ref WaitRecord record = ref RecordOf(live, ticket.Sequence);
        InterleavingPoint.Yield("cancel");
        // Partner of the closing compare-and-swap in Close.
        long open = WaitRecord.Word(ticket.Sequence, WaitRecord.Open);
        if (Interlocked.CompareExchange(ref record.State, WaitRecord.Word(ticket.Sequence, WaitRecord.Cancelling), open) == open)
        {
            Volatile.Write(ref _cancelled, _cancelled + 1);
            Release(ref record, live, WaitRecord.Word(ticket.Sequence, WaitRecord.Cancelled));
        }
    }

    /// <summary>
    /// Says that the reader has no message in hand that it read before the given moment; optional, lets sweeps get on while
    /// no fault comes. Fault reader only.
    /// </summary>
    /// <param name="at">The moment, on the clock of <see cref="Now"/>.</param>
    public void NoteReader(long at)
    {
        if (at > _readerAt)
        {
            // Release, partner of the sweep's acquire read.
            Volatile.Write(ref _readerAt, at);
        }
    }

    // The vCPU is back at a page that it had left (case 6), and the page is missing: it was so all the time, and no placement of it
    // is on its way to us. Known only now: had the page been present, its end could still be coming (case 5).
    private void SettleOlder(ref WaitRecord record, BlocktimeTicket ticket)
    {
        VcpuSlot slot = _slots[ticket.OwnerPlusOne - 1];
        long word = Volatile.Read(ref _live[record.OlderLive]);
        if (word != 0 && word <= ticket.Sequence && slot.Record(word - 1).Page == record.Page)
        {
            MoveOn(slot, record.OlderLive, word - 1, record.Start);
        }
    }

    // A word of the slot's four to publish the wait in, or -1; and the one that has an older wait for the same page, or -1.
    private int FindLiveWord(VcpuSlot slot, nuint page, long start, out int older)
    {
        int first = slot.Index * VcpuSlot.LiveWaits;
        int free = -1;
        int oldest = -1;
        long oldestWord = long.MaxValue;
        older = -1;
        for (int live = first; live < first + VcpuSlot.LiveWaits; live++)
        {
            // Acquire, partner of the release store in Release.
            long word = Volatile.Read(ref _live[live]);
            if (word == 0)
            {
                free = live;
                continue;
            }

            older = slot.Record(word - 1).Page == page ? live : older;
            if (word < oldestWord)
            {
                oldest = live;
                oldestWord = word;
            }
        }

        if (free < 0)
        {
            // Four faults of one vCPU unresolved: take the oldest for left (case 6), and say how wrong that can be.
            Volatile.Write(ref _assumed, _assumed + MoveOn(slot, oldest, oldestWord - 1, start));
            free = Volatile.Read(ref _live[oldest]) == 0 ? oldest : -1;
        }

        return free;
    }

    // Ends an episode where the slot's next one began; the answer is the length assumed to have been blocked.
    private long MoveOn(VcpuSlot slot, int live, long sequence, long start)
    {
        ref WaitRecord record = ref slot.Record(sequence);
        long end = sequence + 1 < slot.Head ? slot.Record(sequence + 1).Start : start;
        return Close(ref record, live, sequence, end, -1, WaitEnd.MovedOn) ? Math.Max(0, end - record.Start) : 0;
    }

    private void Publish(ref WaitRecord record, nuint page, long start, uint threadId, long sequence, int live)
    {
        record.Page = page;
        record.Start = start;
        record.End = long.MaxValue;
        record.StampDelay = -1;
        record.Live = (ushort)live;
        record.ThreadId = threadId;
        record.Cause = WaitEnd.Placed;
        record.FilterEntry = _waited.Add(page >> _pageShift, live);
        // Release, partner of the acquire reads of whoever walks the open faults; they act only once the state is open.
        Volatile.Write(ref _live[live], sequence + 1);
        InterleavingPoint.Yield("begin.publish");
        // Full fence: publishes all of the above, and stands before the caller's second look at "received".
        // Model: tests/models/tracker.pml.
        Interlocked.Exchange(ref record.State, WaitRecord.Word(sequence, WaitRecord.Open));
        InterleavingPoint.Yield("begin.published");
    }

    private BeginResult Untracked(VcpuSlot slot, long start)
    {
        Volatile.Write(ref slot.Untracked, slot.Untracked + 1);
        if (slot.UntrackedSince == long.MinValue)
        {
            Volatile.Write(ref slot.UntrackedSince, start);
        }

        return new BeginResult(BeginKind.New, default);
    }

    private BeginResult BeginOther(uint threadId, nuint page, long readAt)
    {
        nuint number = page >> _pageShift;
        if (_waited.MayWait(number) && OtherIsOpen(threadId, page, number))
        {
            Volatile.Write(ref _otherDuplicates, _otherDuplicates + 1);
            return default;
        }

        for (int i = 0; i < _others.Length; i++)
        {
            _otherCursor = _otherCursor + 1 == _others.Length ? 0 : _otherCursor + 1;
            int live = _firstOther + _otherCursor;
            // Acquire, partner of the release store in Release: the record is ours again.
            if (Volatile.Read(ref _live[live]) == 0)
            {
                long sequence = _otherSequence++;
                ref WaitRecord record = ref _others[_otherCursor];
                record.OlderLive = -1;
                Publish(ref record, page, readAt, threadId, sequence, live);
                // As in Begin: partner of Abandon.
                long abandoned = Volatile.Read(ref _abandonedAt);
                if (readAt <= abandoned)
                {
                    Close(ref record, live, sequence, abandoned, -1, WaitEnd.Unresolved);
                }

                return new BeginResult(BeginKind.Other, new BlocktimeTicket(_maxSlots + _otherCursor, sequence));
            }
        }

        Volatile.Write(ref _otherOverflow, _otherOverflow + 1);
        return new BeginResult(BeginKind.Other, default);
    }

    private bool OtherIsOpen(uint threadId, nuint page, nuint number)
    {
        int bucket = _waited.Bucket(number);
        for (int i = bucket; i < bucket + WaitedPages.EntriesInBucket; i++)
        {
            int waiter = _waited.EntryWaiter(i, number);
            if (waiter >= _firstOther && OtherMatches(waiter, threadId, page))
            {
                return true;
            }
        }

        if (_waited.HasOverflow(bucket))
        {
            for (int live = _firstOther; live < _live.Length; live++)
            {
                if (OtherMatches(live, threadId, page))
                {
                    return true;
                }
            }
        }

        return false;
    }

    private bool OtherMatches(int live, uint threadId, nuint page)
    {
        long word = Volatile.Read(ref _live[live]);
        ref WaitRecord record = ref _others[live - _firstOther];
        return word != 0 && record.ThreadId == threadId && record.Page == page
            && WaitRecord.IsOpen(Volatile.Read(ref record.State), word - 1);
    }

    // The live word of a ticket's episode; false if it is none of ours or its record has been used again.
    private bool TryResolve(BlocktimeTicket ticket, out int live)
    {
        live = -1;
        int owner = ticket.OwnerPlusOne - 1;
        if (owner < 0 || owner >= _maxSlots + _others.Length || (owner < _maxSlots && owner >= Volatile.Read(ref _slotCount)))
        {
            return false;
        }

        ref WaitRecord record = ref owner < _maxSlots ? ref _slots[owner].Record(ticket.Sequence) : ref _others[owner - _maxSlots];
        live = record.Live;
        return WaitRecord.IsOpen(Volatile.Read(ref record.State), ticket.Sequence);
    }
}
