namespace Postcopy.Uffd;

// The cold side: the fold, and what is read from it.
public sealed partial class BlocktimeTracker
{
    // More control events than this wait for a horizon only if no fault has been read for long: then go on without the reader.
    private const int EventsWaiting = 4096;
    private const long EventGrace = 1_000_000_000;

    // Guarded by _cold.
    private readonly PresentedTime[] _presented;
    private PresentedTime _presentedTotal;

    /// <summary>
    /// Adds up what is settled and makes room in the rings; for a control thread now and then (ten times a second is plenty), so that
    /// the fault path has to do it less often. Never needed for correctness.
    /// </summary>
    public void Fold()
    {
        lock (_cold)
        {
            EnterFold();
            FoldHeld();
            LeaveFold();
        }
    }

    /// <summary>Takes a reading now; open stalls count up to now.</summary>
    /// <returns>The reading.</returns>
    public BlocktimeReport Snapshot() => Snapshot(Now());

    /// <summary>Takes a reading; open stalls that are confirmed count up to the given moment.</summary>
    /// <param name="at">The moment, on the clock of <see cref="Now"/>. What has ended counts in full even if stamped later.</param>
    /// <returns>The reading. Its times are never below those of an earlier one.</returns>
    public BlocktimeReport Snapshot(long at) => Snapshot(at, timeline: true);

    /// <summary>Takes a reading, without the timeline if it is only for the figures: a million intervals are 48 MB to copy.</summary>
    /// <param name="at">The moment, on the clock of <see cref="Now"/>. What has ended counts in full even if stamped later.</param>
    /// <param name="timeline">Whether the report has the recorded intervals; without, its timeline is empty.</param>
    /// <returns>The reading. Its times are never below those of an earlier one.</returns>
    public BlocktimeReport Snapshot(long at, bool timeline)
    {
        lock (_cold)
        {
            int slotCount = _slotCount;
            EnterFold();
            BlocktimeSweep reading;
            long late;
            try
            {
                FoldHeld();
                late = _sweep.LateTime + _sweep.AssumedTime;
                reading = _sweep.Copy(slotCount, timeline);
                reading.Finish(slotCount, at);
            }
            finally
            {
                LeaveFold();
            }

            return BuildLocked(reading, slotCount, late, at);
        }
    }

    /// <summary>Finds the confirmed stall that has been open longest, of a vCPU or of another thread. Allocates nothing.</summary>
    /// <param name="stall">The stall found.</param>
    /// <returns>Whether there is one.</returns>
    public bool TryGetOldestStall(out OpenStall stall)
    {
        stall = default;
        bool found = false;
        for (int live = 0; live < _live.Length; live++)
        {
            if (TryReadStall(live, out OpenStall candidate) && (!found || candidate.Since < stall.Since))
            {
                stall = candidate;
                found = true;
            }
        }

        return found;
    }

    /// <summary>How many faults are open, of vCPUs and of other threads, those included that a vCPU has left unresolved.</summary>
    public int OpenFaults
    {
        get
        {
            int open = 0;
            for (int live = 0; live < _live.Length; live++)
            {
                open += Volatile.Read(ref _live[live]) != 0 ? 1 : 0;
            }

            return open;
        }
    }

    /// <summary>How many waiters the filter holds; 0 when nobody waits. For tests.</summary>
    internal long WaitersInFilter => _waited.CountAll();

    /// <summary>How many control events wait for the horizon. For tests.</summary>
    internal int ControlEventsPending => _sweep.EventsPending;

    /// <summary>Runs the action as if a thread had been stopped in the middle of a sweep. For tests.</summary>
    internal void HoldFold(Action action)
    {
        EnterFold();
        action();
        LeaveFold();
    }

    /// <summary>Ends a fault that the slot has left, where its next one began; the answer is the length assumed to have been blocked.</summary>
    internal long SettleLeft(VcpuSlot slot, long sequence) => MoveOn(slot, slot.Record(sequence).Live, sequence, long.MaxValue);

    private bool TryReadStall(int live, out OpenStall stall)
    {
        stall = default;
        // Acquire, partner of the release store in Publish.
        long word = Volatile.Read(ref _live[live]);
        if (word == 0)
        {
            return false;
        }

        ref WaitRecord record = ref RecordOf(live, word - 1);
        long confirmed = WaitRecord.Word(word - 1, WaitRecord.Confirmed);
        if (Volatile.Read(ref record.State) != confirmed)
        {
            return false;
        }

        VcpuSlot? slot = live < _firstOther ? _slots[live / VcpuSlot.LiveWaits] : null;
        // A fault with a successor is one that the vCPU does not wait for any more.
        bool left = slot is not null && word < Volatile.Read(ref slot.Head);
        stall = new OpenStall(slot?.Index ?? -1, record.ThreadId, record.Page, record.Start);
        // The second look at the state makes the fields above one episode's: they change only with the state.
        Interlocked.MemoryBarrier();
        return !left && Volatile.Read(ref record.State) == confirmed;
    }

    private void AddEventLocked(long at, int slot, ControlKind kind)
    {
        EnterFold();
        try
        {
            _sweep.AddEvent(new ControlEvent(at, slot, kind));
            if (_sweep.EventsPending >= EventsWaiting)
            {
                FoldHeld();
                if (_sweep.EventsPending >= EventsWaiting)
                {
                    Assume(at - EventGrace);
                }
            }
        }
        finally
        {
            LeaveFold();
        }
    }

    // Control threads wait here for the hot call that sweeps, if one does: a bounded piece of work.
    private void EnterFold()
    {
        SpinWait spin = default;
        while (Interlocked.CompareExchange(ref _folding, 1, 0) != 0)
        {
            spin.SpinOnce();
        }
    }

    // Release, partner of the compare-and-swap that enters.
    private void LeaveFold() => Volatile.Write(ref _folding, 0);

    private void FoldHeld()
    {
        // The slots before the horizon: a slot that is added later has no record that starts before it.
        int slotCount = Volatile.Read(ref _slotCount);
        // Acquire, before the rings are looked at; partner of the release store in Begin.
        long readerAt = Volatile.Read(ref _readerAt);
        InterleavingPoint.Yield("fold.horizon");
        _sweep.Advance(slotCount, _sweep.SafeHorizon(slotCount, readerAt), assuming: false);
    }

    private void Assume(long wanted)
    {
        int slotCount = Volatile.Read(ref _slotCount);
        _sweep.Advance(slotCount, _sweep.AssumedHorizon(this, slotCount, wanted), assuming: true);
    }

    private void FoldIfHalfFull(VcpuSlot slot)
    {
        long head = Volatile.Read(ref slot.Head);
        if (head - Volatile.Read(ref slot.Tail) >= _ringCapacity / 2 && head >= Volatile.Read(ref slot.FoldAgainAt))
        {
            FoldFor(slot);
        }
    }

    // On a hot path: only if nobody else sweeps. Bounded by what the rings hold.
    private void FoldFor(VcpuSlot slot)
    {
        if (Interlocked.CompareExchange(ref _folding, 1, 0) != 0)
        {
            return;
        }

        FoldHeld();
        long head = Volatile.Read(ref slot.Head);
        long tail = slot.Tail;
        if (head - tail >= _ringCapacity - (_ringCapacity / 4))
        {
            // Some stall elsewhere has been open all the while. Go on as far as makes half the ring free, and no farther:
            // what lies behind can be disproved only by an end stamped before that and recorded after now.
            Assume(Math.Min(slot.Record(tail + (_ringCapacity / 2)).Start, Volatile.Read(ref _readerAt)));
        }

        Volatile.Write(ref slot.FoldAgainAt, head + (_ringCapacity / 8));
        LeaveFold();
    }

    private BlocktimeReport BuildLocked(BlocktimeSweep reading, int slotCount, long late, long at)
    {
        VcpuBlocktime[] vcpus = new VcpuBlocktime[slotCount];
        long bound = late + Volatile.Read(ref _assumed);
        long excess = 0;
        long duplicates = Volatile.Read(ref _otherDuplicates);
        long untracked = 0;
        for (int i = 0; i < slotCount; i++)
        {
            VcpuSlot slot = _slots[i];
            SlotSweep state = reading.State(i);
            excess = Math.Max(excess, _presented[i].Raise(state.Blocktime, state.BlocktimeDown, state.Overlap));
            vcpus[i] = new VcpuBlocktime(slot, in _presented[i], in state, Volatile.Read(ref slot.Duplicates));
            duplicates += vcpus[i].Duplicates;
            untracked += Volatile.Read(ref slot.Untracked);
            bound += UntrackedTime(slot, at);
        }

        excess = Math.Max(excess, _presentedTotal.Raise(reading.Total, reading.TotalDown, 0));
        LatencyHistogram all = reading.Latency.Clone();
        all.Merge(_otherLatency);
        LatencyHistogram other = _otherLatency.Clone();
        return new BlocktimeReport(at, vcpus)
        {
            TotalNanoseconds = _presentedTotal.Total,
            TotalLinkDownNanoseconds = _presentedTotal.Down,
            ErrorBoundNanoseconds = bound,
            ReadingExcessNanoseconds = excess,
            Latency = all.Summarize(),
            VcpuLatency = reading.Latency.Summarize(),
            OtherLatency = other.Summarize(),
            OtherUnresolved = Volatile.Read(ref _otherUnresolved),
            OtherOverflow = Volatile.Read(ref _otherOverflow),
            Duplicates = duplicates,
            Cancelled = Volatile.Read(ref _cancelled) + Volatile.Read(ref _tooLate),
            Untracked = untracked,
            OpenStalls = ReadOpenStalls(),
            ReaderDelay = reading.ReadDelay.Summarize(),
            StampDelay = reading.StampDelay.Summarize(),
            Timeline = Array.AsReadOnly(reading.Timeline.AsSpan(0, reading.TimelineCount).ToArray()),
            TimelineDropped = reading.HasTimeline ? reading.TimelineDropped : 0,
            Overlaps = Array.AsReadOnly(reading.Overlaps.AsSpan(0, reading.OverlapCount).ToArray()),
            OverlapsDropped = reading.HasTimeline ? reading.OverlapsDropped : 0,
        };
    }

    private static long UntrackedTime(VcpuSlot slot, long at)
    {
        long since = Volatile.Read(ref slot.UntrackedSince);
        return Volatile.Read(ref slot.UntrackedTime) + (since == long.MinValue ? 0 : Math.Max(0, at - since));
    }

    private IReadOnlyList<OpenStall> ReadOpenStalls()
    {
        List<OpenStall> open = [];
        for (int live = 0; live < _live.Length; live++)
        {
            if (TryReadStall(live, out OpenStall stall))
            {
                open.Add(stall);
            }
        }

        open.Sort(static (a, b) => a.Since.CompareTo(b.Since));
        return open.AsReadOnly();
    }
}
