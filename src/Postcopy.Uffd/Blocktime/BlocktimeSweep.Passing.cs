namespace Postcopy.Uffd;

// What happens when the sweep passes the start or end of an episode, or a control event.
internal sealed partial class BlocktimeSweep
{
    // When the slot's next event is due; long.MaxValue if there is none to see yet.
    private long NextTime(int index)
    {
        ref SlotSweep state = ref _states[index];
        if (state.Blocked)
        {
            return state.PlannedEnd;
        }

        VcpuSlot slot = _slots[index];
        // Acquire, partner of the release store in Begin.
        while (state.Tail < Volatile.Read(ref slot.Head))
        {
            ref WaitRecord record = ref slot.Record(state.Tail);
            // Acquire, partner of the release store in the tracker's Release.
            long phase = Volatile.Read(ref record.State) & WaitRecord.PhaseMask;
            if (phase == WaitRecord.Cancelled)
            {
                // Whatever it cut short is behind us.
                Consume(ref state, slot);
                continue;
            }

            if (phase is WaitRecord.Open or WaitRecord.Cancelling)
            {
                if (!_tentative)
                {
                    return long.MaxValue;
                }

                // Not confirmed: a reading does not show what may be cancelled a moment later.
                state.Tail++;
                continue;
            }

            if (phase == WaitRecord.Closed || _tentative || (_assuming && phase == WaitRecord.Confirmed))
            {
                return record.Start;
            }

            return long.MaxValue;
        }

        return long.MaxValue;
    }

    private void Plan(int index)
    {
        ref SlotSweep state = ref _states[index];
        VcpuSlot slot = _slots[index];
        ref WaitRecord record = ref slot.Record(state.Tail);
        // Acquire, partner of the release store in the tracker's Release.
        state.PlannedClosed = (Volatile.Read(ref record.State) & WaitRecord.PhaseMask) == WaitRecord.Closed;
        long end = state.PlannedClosed ? record.End : _tentative ? _openUntil : long.MaxValue;
        if (end == long.MaxValue)
        {
            state.PlannedEnd = end;
            return;
        }

        // A thread is in one fault at a time: its next one ends this one, whatever a late stamp says (cases 5 and 6).
        if (state.Tail + 1 < Volatile.Read(ref slot.Head))
        {
            end = Math.Min(end, slot.Record(state.Tail + 1).Start);
        }

        state.PlannedEnd = Math.Max(end, record.Start);
    }

    private void Pass(int index, long time)
    {
        ref SlotSweep state = ref _states[index];
        NoteLate(time);
        AccrueTo(time);
        if (!state.Blocked)
        {
            Toggle(ref state, blocked: true);
            state.DownAtStart = _down;
            Plan(index);
            return;
        }

        VcpuSlot slot = _slots[index];
        ref WaitRecord record = ref slot.Record(state.Tail);
        long length = state.PlannedEnd - record.Start;
        state.Blocktime += length;
        // The link's share is taken at the sweep's own position; behind the horizon it can be off by what NoteLate counts.
        state.BlocktimeDown += Math.Min(length, _down - state.DownAtStart);
        Toggle(ref state, blocked: false);
        Draw(index, record.Start, state.PlannedEnd, !state.PlannedClosed);
        if (state.PlannedClosed)
        {
            Count(ref state, in record, length);
        }

        Consume(ref state, slot);
    }

    private void Count(ref SlotSweep state, in WaitRecord record, long length)
    {
        if (record.Cause == WaitEnd.Unresolved)
        {
            // It has a length but no latency: nobody knows how long the page would have taken.
            state.Unresolved++;
            return;
        }

        state.Episodes++;
        state.LatencySum += length;
        state.LatencyMax = Math.Max(state.LatencyMax, length);
        state.MovedOn += record.Cause == WaitEnd.MovedOn ? 1 : 0;
        state.LeftGuest += record.Cause == WaitEnd.LeftGuest ? 1 : 0;
        Latency.Add(length);
        ReadDelay.Add(record.ReadDelay);
        StampDelay.Add(record.StampDelay);
    }

    private void Consume(ref SlotSweep state, VcpuSlot slot)
    {
        state.Tail++;
        if (!_tentative)
        {
            state.Settled = Math.Max(state.Settled, state.Tail);
            // Release, partner of the acquire read in Begin: all our reads of the record are done.
            Volatile.Write(ref slot.Tail, state.Tail);
        }
    }

    private void Apply(ControlEvent change)
    {
        NoteLate(change.At);
        AccrueTo(change.At);
        if (change.Slot < 0)
        {
            _linkUp = change.Kind == ControlKind.LinkUp;
            return;
        }

        ref SlotSweep state = ref _states[change.Slot];
        bool member = change.Kind switch
        {
            ControlKind.Join => true,
            ControlKind.Leave => false,
            _ => state.Member,
        };
        bool idle = change.Kind switch
        {
            ControlKind.Idle => true,
            ControlKind.Busy => false,
            _ => state.Idle,
        };
        Weigh(in state, -1);
        state.Member = member;
        state.Idle = idle;
        SetCounting(ref state);
        Weigh(in state, 1);
    }

    // Once at the start and once at the end of every episode, so it does only what these two change.
    private void Toggle(ref SlotSweep state, bool blocked)
    {
        state.Blocked = blocked;
        if (IsAsked(in state))
        {
            int sign = blocked ? 1 : -1;
            _counting += sign;
            _still += state.Idle ? 0 : sign;
        }

        SetCounting(ref state);
    }

    private void SetCounting(ref SlotSweep state)
    {
        bool counting = state.Blocked && IsAsked(in state);
        if (counting == state.Counting)
        {
            return;
        }

        state.Counting = counting;
        if (counting)
        {
            state.TotalAtStart = Total;
        }
        else
        {
            state.Overlap += Total - state.TotalAtStart;
        }
    }

    private void Weigh(in SlotSweep state, int sign)
    {
        if (IsAsked(in state))
        {
            _members += sign;
            _counting += state.Blocked ? sign : 0;
            _still += state.Blocked || state.Idle ? sign : 0;
        }
    }

    // Whether the total depends on the slot. An idle one that is asked stands still (the policy says so).
    private bool IsAsked(in SlotSweep state) => state.Member && !(state.Idle && _idlePolicy == IdleSlots.LeftOut);

    private void NoteLate(long time)
    {
        if (time < _position && time != long.MinValue)
        {
            LateTime += _position - time;
        }
    }

    private void AccrueTo(long time)
    {
        if (time <= _position)
        {
            return;
        }

        if (_position != long.MinValue)
        {
            long length = time - _position;
            bool allStill = _counting > 0 && _still == _members;
            if (allStill)
            {
                Total += length;
                DrawOverlap(_position, time);
            }

            if (!_linkUp)
            {
                _down += length;
                TotalDown += allStill ? length : 0;
            }
        }

        _position = time;
    }
}
