using System.Diagnostics;

namespace Postcopy.Uffd;

/// <summary>
/// Measures how long vCPUs stood still because their memory was still on the other host: per vCPU, and the time in which
/// all of them stood still at once.
/// </summary>
/// <remarks>
/// <para>
/// Usable alone: a host with its own placer and bitmaps calls <see cref="Begin"/> for each fault message it reads, looks
/// again whether the page has been received, answers with <see cref="Confirm"/> or <see cref="Cancel"/>, and calls
/// <see cref="End"/> after every placement.
/// </para>
/// <para>
/// Threads: Begin, Confirm, Cancel and <see cref="NoteReader"/> belong to one fault reader at a time. End, LeaveGuest and
/// Abandon may be called by any number of threads at once. None of these allocates, waits or throws. All other methods
/// are for control threads; they may wait for each other and allocate.
/// </para>
/// <para>
/// How it works. The fault reader writes each episode into the vCPU's ring, in order of start. Whoever ends an episode
/// closes the record by a compare-and-swap on a word with its sequence number, and stores the end. A sweep consumes the
/// records of all slots in order of time, up to a horizon behind which nothing can change any more (the last stamp
/// of the reader, and the start of the oldest episode that is not closed), and adds up what every slot has in common.
/// Late records therefore cost nothing: no time is lost or invented. Only when a ring fills up while some stall stays
/// open is the horizon moved on by assumption; if a late stamp then disproves it, the report's ErrorBound says by how
/// much the total can be wrong.
/// </para>
/// </remarks>
public sealed partial class BlocktimeTracker : IDisposable
{
    private readonly TimeProvider _timeProvider;
    private readonly bool _systemClock;
    private readonly int _maxSlots;
    private readonly int _ringCapacity;
    private readonly nuint _pageMask;
    private readonly int _pageShift;
    private readonly WaitedPages _waited;
    private readonly VcpuSlot[] _slots;
    private readonly WaitRecord[] _others;
    private readonly LatencyHistogram _otherLatency = new();
    private readonly BlocktimeSweep _sweep;
    private readonly object _cold = new();

    // Sequence number + 1 of each open fault, or 0: four words per slot, then one per entry of the other threads' table.
    // A word is set by the reader alone and cleared by the party that closed the episode.
    private readonly long[] _live;
    private readonly int _firstOther;

    private ThreadTable _threads = ThreadTable.Empty;
    private int _slotCount;
    private bool _disposed;

    // Every message still to come was read at this moment or later. Written by the reader alone.
    private long _readerAt = long.MinValue;
    private long _abandonedAt = long.MinValue;

    // 1 while some thread sweeps. Hot calls only ever try.
    private int _folding;

    /// <summary>Builds a tracker; all memory of the hot path that does not belong to a slot is taken here.</summary>
    /// <param name="options">Sizes and rules; null for the defaults.</param>
    /// <exception cref="ArgumentException">An option is out of its range.</exception>
    public BlocktimeTracker(BlocktimeOptions? options = null)
    {
        options ??= new BlocktimeOptions();
        options.Validate();
        _timeProvider = options.TimeProvider;
        _systemClock = ReferenceEquals(_timeProvider, TimeProvider.System) && Stopwatch.Frequency == 1_000_000_000;
        _maxSlots = options.MaxSlots;
        _ringCapacity = options.RingCapacity;
        _pageMask = ~(options.PageSize - 1);
        while (((nuint)1 << _pageShift) < options.PageSize)
        {
            _pageShift++;
        }

        _slots = new VcpuSlot[_maxSlots];
        _firstOther = _maxSlots * VcpuSlot.LiveWaits;
        _live = new long[_firstOther + options.OtherCapacity];
        _others = new WaitRecord[options.OtherCapacity];
        for (int i = 0; i < _others.Length; i++)
        {
            _others[i].State = WaitRecord.Word(-1, WaitRecord.Free);
        }

        _waited = new WaitedPages(_maxSlots);
        _sweep = new BlocktimeSweep(_slots, options.IdleSlots, options.TimelineCapacity);
        _presented = new PresentedTime[_maxSlots];
    }

    /// <summary>How many slots may ever be added.</summary>
    public int MaxSlots => _maxSlots;

    /// <summary>The current time on the tracker's clock, in nanoseconds from an arbitrary origin; never goes back.</summary>
    // On Linux a Stopwatch tick is a nanosecond: no division on the hot path.
    public long Now() => _systemClock ? Stopwatch.GetTimestamp() : ScaledNow();

    /// <summary>Adds a vCPU; before the first fault it counts as present from the start, later from now on.</summary>
    /// <param name="threadId">The thread that runs it, by the number the kernel reports (that of the thread's own pid namespace).</param>
    /// <returns>The slot.</returns>
    /// <exception cref="ArgumentOutOfRangeException">The thread id is 0.</exception>
    /// <exception cref="InvalidOperationException">All slots are taken, or another slot has this thread.</exception>
    /// <exception cref="ObjectDisposedException">The tracker is disposed.</exception>
    public VcpuSlot AddVcpu(uint threadId) => AddVcpu(threadId, null);

    /// <summary>Adds a vCPU; before the first fault it counts as present from the start, later from now on.</summary>
    /// <param name="threadId">The thread that runs it, by the number the kernel reports (that of the thread's own pid namespace).</param>
    /// <param name="name">A name for the report.</param>
    /// <returns>The slot.</returns>
    /// <exception cref="ArgumentOutOfRangeException">The thread id is 0.</exception>
    /// <exception cref="InvalidOperationException">All slots are taken, or another slot has this thread.</exception>
    /// <exception cref="ObjectDisposedException">The tracker is disposed.</exception>
    public VcpuSlot AddVcpu(uint threadId, string? name)
    {
        lock (_cold)
        {
            // Acquire, partner of the release store in Begin.
            return AddLocked(threadId, Volatile.Read(ref _readerAt) == long.MinValue ? long.MinValue : Now(), name);
        }
    }

    /// <summary>Adds a vCPU that is present from the given moment on; faults of other slots may be open.</summary>
    /// <param name="threadId">The thread that runs it, by the number the kernel reports.</param>
    /// <param name="at">When it became a member, on the clock of <see cref="Now"/>.</param>
    /// <param name="name">A name for the report.</param>
    /// <returns>The slot.</returns>
    /// <exception cref="ArgumentOutOfRangeException">The thread id is 0.</exception>
    /// <exception cref="InvalidOperationException">All slots are taken, or another slot has this thread.</exception>
    /// <exception cref="ObjectDisposedException">The tracker is disposed.</exception>
    public VcpuSlot AddVcpu(uint threadId, long at, string? name = null)
    {
        lock (_cold)
        {
            return AddLocked(threadId, at, name);
        }
    }

    /// <summary>Gives the vCPU to another thread, now.</summary>
    /// <param name="slot">The vCPU.</param>
    /// <param name="threadId">The new thread.</param>
    /// <exception cref="ArgumentException">The slot is null, of another tracker, or the thread id is 0.</exception>
    /// <exception cref="InvalidOperationException">The slot was removed, or another slot has this thread.</exception>
    /// <exception cref="ObjectDisposedException">The tracker is disposed.</exception>
    public void RebindVcpu(VcpuSlot slot, uint threadId) => RebindVcpu(slot, threadId, Now());

    /// <summary>Gives the vCPU to another thread; what the old one waited for ends there and then.</summary>
    /// <param name="slot">The vCPU.</param>
    /// <param name="threadId">The new thread.</param>
    /// <param name="at">When the old thread stopped to run the vCPU.</param>
    /// <exception cref="ArgumentException">The slot is null, of another tracker, or the thread id is 0.</exception>
    /// <exception cref="InvalidOperationException">The slot was removed, or another slot has this thread.</exception>
    /// <exception cref="ObjectDisposedException">The tracker is disposed.</exception>
    public void RebindVcpu(VcpuSlot slot, uint threadId, long at)
    {
        lock (_cold)
        {
            CheckLocked(slot);
            CheckThreadLocked(threadId, slot);
            slot.ThreadId = threadId;
            PublishThreadsLocked();
            LeaveGuest(slot, at);
        }
    }

    /// <summary>Takes a vCPU out, now.</summary>
    /// <param name="slot">The vCPU.</param>
    /// <exception cref="ArgumentException">The slot is null or of another tracker.</exception>
    /// <exception cref="InvalidOperationException">The slot was removed before.</exception>
    /// <exception cref="ObjectDisposedException">The tracker is disposed.</exception>
    public void RemoveVcpu(VcpuSlot slot) => RemoveVcpu(slot, Now());

    /// <summary>Takes a vCPU out; what it waited for ends there and then, and its row stays in the report.</summary>
    /// <param name="slot">The vCPU.</param>
    /// <param name="at">When it stopped to be a member.</param>
    /// <exception cref="ArgumentException">The slot is null or of another tracker.</exception>
    /// <exception cref="InvalidOperationException">The slot was removed before.</exception>
    /// <exception cref="ObjectDisposedException">The tracker is disposed.</exception>
    public void RemoveVcpu(VcpuSlot slot, long at)
    {
        lock (_cold)
        {
            CheckLocked(slot);
            // Release, partner of the acquire read in Begin (through LeaveGuest's full fence).
            Volatile.Write(ref slot.Removed, true);
            PublishThreadsLocked();
            LeaveGuest(slot, at);
            AddEventLocked(at, slot.Index, ControlKind.Leave);
        }
    }

    /// <summary>Says that the vCPU became idle (halted, paused) or busy again, now.</summary>
    /// <param name="slot">The vCPU.</param>
    /// <param name="idle">Whether it is idle from now on.</param>
    /// <exception cref="ArgumentException">The slot is null or of another tracker.</exception>
    /// <exception cref="InvalidOperationException">The slot was removed.</exception>
    /// <exception cref="ObjectDisposedException">The tracker is disposed.</exception>
    public void SetIdle(VcpuSlot slot, bool idle) => SetIdle(slot, idle, Now());

    /// <summary>Says that the vCPU became idle (halted, paused) or busy again.</summary>
    /// <param name="slot">The vCPU.</param>
    /// <param name="idle">Whether it is idle from then on.</param>
    /// <param name="at">When that happened.</param>
    /// <exception cref="ArgumentException">The slot is null or of another tracker.</exception>
    /// <exception cref="InvalidOperationException">The slot was removed.</exception>
    /// <exception cref="ObjectDisposedException">The tracker is disposed.</exception>
    public void SetIdle(VcpuSlot slot, bool idle, long at)
    {
        lock (_cold)
        {
            CheckLocked(slot);
            AddEventLocked(at, slot.Index, idle ? ControlKind.Idle : ControlKind.Busy);
        }
    }

    /// <summary>Says that the link to the source went up or down; blocktime is split by it. A tracker starts with the link up.</summary>
    /// <param name="up">The state from then on.</param>
    /// <param name="at">When it changed.</param>
    /// <exception cref="ObjectDisposedException">The tracker is disposed.</exception>
    public void SetLink(bool up, long at)
    {
        lock (_cold)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            AddEventLocked(at, -1, up ? ControlKind.LinkUp : ControlKind.LinkDown);
        }
    }

    /// <summary>Refuses further control calls; readings can still be taken, and hot calls that come late do no harm.</summary>
    public void Dispose()
    {
        lock (_cold)
        {
            _disposed = true;
        }
    }

    private long ScaledNow()
    {
        long ticks = _timeProvider.GetTimestamp();
        long frequency = _timeProvider.TimestampFrequency;
        // Whole seconds and the rest apart: their product with a billion stays within 64 bits.
        return frequency == 1_000_000_000
            ? ticks
            : (ticks / frequency * 1_000_000_000) + (long)(ticks % frequency * 1_000_000_000m / frequency);
    }

    private VcpuSlot AddLocked(uint threadId, long at, string? name)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        CheckThreadLocked(threadId, null);
        if (_slotCount == _maxSlots)
        {
            throw new InvalidOperationException(
                $"All {_maxSlots} slots are taken; raise BlocktimeOptions.MaxSlots (at most {BlocktimeOptions.SlotLimit}), or re-bind the slot of a vCPU that comes back.");
        }

        VcpuSlot slot = new(this, _slotCount, threadId, name, _ringCapacity);
        _slots[_slotCount] = slot;
        // Release, partner of the acquire reads of whoever walks the slots.
        Volatile.Write(ref _slotCount, _slotCount + 1);
        // A member first, found by the reader afterwards: no fault is read for a slot that is no member yet.
        AddEventLocked(at, slot.Index, ControlKind.Join);
        PublishThreadsLocked();
        return slot;
    }

    private void CheckLocked(VcpuSlot slot)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        CheckOwner(slot);
        if (slot.Removed)
        {
            throw new InvalidOperationException($"vCPU slot {slot.Index} was removed; add the vCPU again.");
        }
    }

    private void CheckOwner(VcpuSlot slot)
    {
        ArgumentNullException.ThrowIfNull(slot);
        if (!ReferenceEquals(slot.Owner, this))
        {
            throw new ArgumentException($"vCPU slot {slot.Index} belongs to another tracker.", nameof(slot));
        }
    }

    private void CheckThreadLocked(uint threadId, VcpuSlot? except)
    {
        if (threadId == 0)
        {
            throw new ArgumentOutOfRangeException(nameof(threadId), "Thread id 0 is what the kernel reports when it reports none; give the id of the vCPU thread.");
        }

        VcpuSlot? holder = _threads.Find(threadId);
        if (holder is not null && !ReferenceEquals(holder, except))
        {
            throw new InvalidOperationException($"Thread {threadId} already runs vCPU slot {holder.Index}; remove or re-bind that one first.");
        }
    }

    private void PublishThreadsLocked()
    {
        List<VcpuSlot> bound = [];
        for (int i = 0; i < _slotCount; i++)
        {
            if (!_slots[i].Removed)
            {
                bound.Add(_slots[i]);
            }
        }

        // Release, partner of the acquire read in Begin.
        Volatile.Write(ref _threads, new ThreadTable(bound));
    }
}
