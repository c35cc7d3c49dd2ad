namespace Postcopy.Uffd;

/// <summary>
/// Goes through the episodes of all slots in order of time and adds up: each slot's blocked time, and the time all had in common.
/// </summary>
/// <remarks>
/// Used by one thread at a time (the holder of the tracker's fold). It keeps its place: what lies behind
/// <see cref="_position"/> has been added up for good. A reading goes on from a copy, through what is still open.
/// Allocates nothing unless a control thread adds events or asks for a copy.
/// </remarks>
internal sealed partial class BlocktimeSweep
{
    private readonly VcpuSlot[] _slots;
    private readonly SlotSweep[] _states;
    private readonly IdleSlots _idlePolicy;
    private readonly int _timelineCapacity;

    // The slots with an event up to the horizon, by time: a binary heap of slot numbers beside their times.
    private readonly int[] _heap;
    private readonly long[] _times;
    private int _heapCount;

    private ControlEvent[] _events = new ControlEvent[64];
    private int _eventHead;
    private int _eventCount;

    private long _position = long.MinValue;
    private bool _linkUp = true;
    private long _down;
    private int _members;
    private int _still;
    private int _counting;
    private bool _tentative;
    private bool _assuming;
    private long _openUntil;

    internal BlocktimeSweep(VcpuSlot[] slots, IdleSlots idlePolicy, int timelineCapacity)
    {
        _slots = slots;
        _idlePolicy = idlePolicy;
        _states = new SlotSweep[slots.Length];
        _heap = new int[slots.Length];
        _times = new long[slots.Length];
        _timelineCapacity = timelineCapacity;
        Timeline = new BlockedInterval[timelineCapacity];
        Overlaps = new OverlapInterval[timelineCapacity];
        Latency = new LatencyHistogram();
    }

    private BlocktimeSweep(BlocktimeSweep from, int slotCount, bool timeline)
    {
        _slots = from._slots;
        _idlePolicy = from._idlePolicy;
        _states = new SlotSweep[slotCount];
        Array.Copy(from._states, _states, slotCount);
        _heap = new int[slotCount];
        _times = new long[slotCount];
        _events = (ControlEvent[])from._events.Clone();
        _eventHead = from._eventHead;
        _eventCount = from._eventCount;
        _position = from._position;
        _linkUp = from._linkUp;
        _down = from._down;
        _members = from._members;
        _still = from._still;
        _counting = from._counting;
        Total = from.Total;
        TotalDown = from.TotalDown;
        LateTime = from.LateTime;
        AssumedTime = from.AssumedTime;
        Latency = from.Latency.Clone();
        ReadDelay = from.ReadDelay;
        StampDelay = from.StampDelay;
        TimelineDropped = from.TimelineDropped;
        OverlapsDropped = from.OverlapsDropped;

        // Only what is filled: a capacity of a million is 48 MB. What is still open grows it.
        HasTimeline = timeline;
        _timelineCapacity = timeline ? from._timelineCapacity : 0;
        TimelineCount = timeline ? from.TimelineCount : 0;
        OverlapCount = timeline ? from.OverlapCount : 0;
        Timeline = from.Timeline.AsSpan(0, TimelineCount).ToArray();
        Overlaps = from.Overlaps.AsSpan(0, OverlapCount).ToArray();
    }

    internal long Total { get; private set; }

    internal long TotalDown { get; private set; }

    /// <summary>By how much records came behind the horizon: so much of the total may be wrong.</summary>
    internal long LateTime { get; private set; }

    /// <summary>How much blocked time was taken for granted because a ring was full.</summary>
    internal long AssumedTime { get; private set; }

    internal LatencyHistogram Latency { get; }

    internal DelayCounter ReadDelay;

    internal DelayCounter StampDelay;

    /// <summary>Whether a reading's copy has the intervals.</summary>
    internal bool HasTimeline { get; } = true;

    internal BlockedInterval[] Timeline { get; private set; }

    internal int TimelineCount { get; private set; }

    internal long TimelineDropped { get; private set; }

    internal OverlapInterval[] Overlaps { get; private set; }

    internal int OverlapCount { get; private set; }

    internal long OverlapsDropped { get; private set; }

    internal int EventsPending => _eventCount - _eventHead;

    internal ref readonly SlotSweep State(int slot) => ref _states[slot];

    internal BlocktimeSweep Copy(int slotCount, bool timeline) => new(this, slotCount, timeline);

    /// <summary>Files a control event in order of time; equal times keep their order.</summary>
    internal void AddEvent(ControlEvent added)
    {
        if (_eventCount == _events.Length)
        {
            int pending = EventsPending;
            ControlEvent[] target = pending > _events.Length / 2 ? new ControlEvent[_events.Length * 2] : _events;
            Array.Copy(_events, _eventHead, target, 0, pending);
            _events = target;
            _eventHead = 0;
            _eventCount = pending;
        }

        int i = _eventCount++;
        for (; i > _eventHead && _events[i - 1].At > added.At; i--)
        {
            _events[i] = _events[i - 1];
        }

        _events[i] = added;
    }

    /// <summary>The moment up to which nothing can change any more, given that every message to come was read at readerAt or later.</summary>
    /// <remarks>
    /// The caller read readerAt (acquire) before this looks at the rings. A Begin in progress has stored its stamp in readerAt before it
    /// publishes its record: either we see the record, or it starts at readerAt or later.
    /// </remarks>
    internal long SafeHorizon(int slotCount, long readerAt)
    {
        long horizon = readerAt;
        for (int i = 0; i < slotCount; i++)
        {
            ref SlotSweep state = ref _states[i];
            VcpuSlot slot = _slots[i];
            // Acquire, partner of the release store in Begin.
            long head = Volatile.Read(ref slot.Head);
            for (; state.Settled < head; state.Settled++)
            {
                ref WaitRecord record = ref slot.Record(state.Settled);
                // Acquire, partner of the release store in the tracker's Release.
                if ((Volatile.Read(ref record.State) & WaitRecord.PhaseMask) < WaitRecord.Closed)
                {
                    horizon = Math.Min(horizon, record.Start);
                    break;
                }
            }
        }

        return horizon;
    }

    /// <summary>How far the sweep may go by assumption: open confirmed stalls count as blocked, those on their way to an end do not.</summary>
    /// <returns>The horizon; what was settled on the way is in <see cref="AssumedTime"/>.</returns>
    internal long AssumedHorizon(BlocktimeTracker tracker, int slotCount, long wanted)
    {
        for (int i = 0; i < slotCount; i++)
        {
            VcpuSlot slot = _slots[i];
            long head = Volatile.Read(ref slot.Head);
            for (long n = _states[i].Settled; n < head; n++)
            {
                ref WaitRecord record = ref slot.Record(n);
                long phase = Volatile.Read(ref record.State) & WaitRecord.PhaseMask;
                if (record.Start > wanted)
                {
                    break;
                }

                if (phase >= WaitRecord.Closed)
                {
                    continue;
                }

                // A fault that the vCPU has left: take it for blocked until the next one began (case 6 rather than 5).
                if (n + 1 < head)
                {
                    AssumedTime += tracker.SettleLeft(slot, n);
                }

                phase = Volatile.Read(ref record.State) & WaitRecord.PhaseMask;
                if (phase < WaitRecord.Closed && phase != WaitRecord.Confirmed)
                {
                    wanted = Math.Min(wanted, record.Start);
                }
            }
        }

        return wanted;
    }

    /// <summary>Adds up for good all that lies before the horizon.</summary>
    internal void Advance(int slotCount, long horizon, bool assuming)
    {
        _tentative = false;
        _assuming = assuming;
        horizon = Math.Max(horizon, _position);
        Run(slotCount, horizon);
        AccrueTo(horizon);
    }

    /// <summary>Adds up everything, open stalls up to the given moment: for a copy that is read and thrown away.</summary>
    internal void Finish(int slotCount, long openUntil)
    {
        _tentative = true;
        _openUntil = openUntil;
        Run(slotCount, long.MaxValue - 1);
    }

    private void Run(int slotCount, long horizon)
    {
        _heapCount = 0;
        for (int i = 0; i < slotCount; i++)
        {
            if (_states[i].Blocked)
            {
                // It may have been closed, or got a successor, since the last run.
                Plan(i);
            }

            long time = NextTime(i);
            if (time <= horizon)
            {
                Push(i, time);
            }
        }

        while (true)
        {
            long slotTime = _heapCount > 0 ? _times[0] : long.MaxValue;
            long eventTime = _eventHead < _eventCount ? _events[_eventHead].At : long.MaxValue;
            if (eventTime <= slotTime && eventTime <= horizon)
            {
                Apply(_events[_eventHead++]);
            }
            else if (slotTime <= horizon)
            {
                int slot = _heap[0];
                Pass(slot, slotTime);
                long next = NextTime(slot);
                ReplaceTop(slot, next, next <= horizon);
            }
            else
            {
                return;
            }
        }
    }

    // Heap of slots by time of their next event. With one slot it is an array of one.
    private void Push(int slot, long time)
    {
        int i = _heapCount++;
        while (i > 0 && _times[(i - 1) / 2] > time)
        {
            _heap[i] = _heap[(i - 1) / 2];
            _times[i] = _times[(i - 1) / 2];
            i = (i - 1) / 2;
        }

        _heap[i] = slot;
        _times[i] = time;
    }

    private void ReplaceTop(int slot, long time, bool keep)
    {
        if (!keep)
        {
            _heapCount--;
            if (_heapCount == 0)
            {
                return;
            }

            slot = _heap[_heapCount];
            time = _times[_heapCount];
        }

        int i = 0;
        while (true)
        {
            int child = (2 * i) + 1;
            if (child >= _heapCount)
            {
                break;
            }

            if (child + 1 < _heapCount && _times[child + 1] < _times[child])
            {
                child++;
            }

            if (_times[child] >= time)
            {
                break;
            }

            _heap[i] = _heap[child];
            _times[i] = _times[child];
            i = child;
        }

        _heap[i] = slot;
        _times[i] = time;
    }
}
