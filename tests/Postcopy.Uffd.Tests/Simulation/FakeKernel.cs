using System.Runtime.InteropServices;

namespace Postcopy.Uffd.Tests.Simulation;

/// <summary>
/// One address space with its userfaultfd, simulated by the contracts of kernel-uapi sections 5 and 6: partial results,
/// "changing" that lasts until the madvise thread runs again, "already present" that does not wake and on an exhausted
/// pool is not even true, faults read before older events, repeated messages. Single-threaded; the schedule decides.
/// </summary>
internal sealed class FakeKernel : IUffdKernel
{
    private readonly FakeMemory _memory;
    private readonly Random _random;
    private readonly bool[] _mapped;
    private readonly bool[] _poisoned;
    private bool _unregistered;
    private readonly List<FakeVcpu> _vcpus = [];
    private readonly Queue<FakeVcpu> _faults = new();
    private readonly Queue<Removal> _events = new();
    private readonly List<Removal> _removals = [];

    internal FakeKernel(FakeMemory memory, nuint address, UffdModes modes, Random random)
    {
        _memory = memory;
        _random = random;
        Address = address;
        Modes = modes;
        _mapped = new bool[memory.Frames.Length];
        _poisoned = new bool[memory.Frames.Length];
        memory.Add(this);
    }

    /// <summary>A thread in madvise(DONTNEED) or (REMOVE), or, with no pages, in fork().</summary>
    internal sealed class Removal(int first, int count)
    {
        internal int First { get; } = first;

        internal int Count { get; } = count;

        internal bool IsRead { get; set; }

        /// <summary>The flag fell: COPY works again, and the pages are still there.</summary>
        internal bool IsSettled { get; set; }

        /// <summary>Placing calls that still find the address space changing after the event was read.</summary>
        internal int CallsLeft { get; set; }

        internal bool Covers(int page) => page >= First && page < First + Count;
    }

    /// <summary>What a system call gets from a poisoned page instead of a content: EFAULT. A thread's own touch would be SIGBUS.</summary>
    internal const long Poisoned = -14;

    internal nuint Address { get; }

    internal UffdModes Modes { get; }

    /// <summary>What the real kernel's register mask has (section 4).</summary>
    internal UffdOperations Operations => UffdOperations.Wake | UffdOperations.Copy | UffdOperations.Poison |
        (_memory.IsHuge ? 0 : UffdOperations.Zeropage) | ((Modes & UffdModes.Minor) != 0 ? UffdOperations.Continue : 0);

    /// <summary>Placing calls so far.</summary>
    internal long Calls { get; private set; }

    internal long MessagesRead { get; private set; }

    /// <summary>Messages or events that wait to be read.</summary>
    internal bool IsReadable => _faults.Count > 0 || _events.Count > 0;

    internal int OutOfMemoryCalls { get; set; }

    /// <summary>Pages that were there when a stretch was moved to where they were.</summary>
    internal int Erased { get; private set; }

    internal bool TargetGone { get; private set; }

    /// <summary>The range was unmapped or moved; its threads wait on.</summary>
    internal bool NotRegistered { get; set; }

    /// <summary>Chance in percent that an ioctl over several pages stops early.</summary>
    internal int PartialPercent { get; init; } = 30;

    /// <summary>Runs right before and right after a placing call took effect: other threads of the schedule.</summary>
    internal Action? Interleave { get; set; }

    /// <summary>Runs when messages were taken out and the reader has not seen them yet.</summary>
    internal Action? AfterRead { get; set; }

    /// <summary>Threads in madvise that have not come back.</summary>
    internal IReadOnlyList<Removal> Removals => _removals;

    internal FakeVcpu AddVcpu(uint threadId)
    {
        FakeVcpu vcpu = new(this, threadId);
        _vcpus.Add(vcpu);
        return vcpu;
    }

    internal bool IsMapped(int page) => _mapped[page];

    internal bool IsPoisoned(int page) => _poisoned[page];

    internal void Unmap(int page) => _mapped[page] = _poisoned[page] = false;

    /// <summary>The process that owns the memory dies; its threads go with it, and their messages.</summary>
    internal void Exit()
    {
        TargetGone = true;
        WakeRange(0, _mapped.Length);
    }

    /// <summary>Waiting threads go on, with zeros (section 6, row 11).</summary>
    internal void Unregister()
    {
        NotRegistered = _unregistered = true;
        WakeRange(0, _mapped.Length);
    }

    /// <summary>A touch: the content, or null when the thread now waits for its fault.</summary>
    internal long? Access(FakeVcpu vcpu)
    {
        int page = vcpu.Page;
        bool cached = _memory.IsShared && _memory.Frames[page] is not null;
        bool minorFaults = (Modes & UffdModes.Minor) != 0;
        if (_mapped[page] || (cached && !minorFaults) || _unregistered)
        {
            _mapped[page] = true;
            return _memory.Frames[page] ??= 0;
        }

        if (_poisoned[page])
        {
            return Poisoned;
        }

        vcpu.Minor = cached;
        vcpu.Waits = true;
        Queue(vcpu);
        return null;
    }

    /// <summary>A signal hits a waiting thread: one more message (section 6, rows 4 and 5).</summary>
    internal void Signal(FakeVcpu vcpu)
    {
        if (vcpu.Waits && !vcpu.Queued)
        {
            Queue(vcpu);
        }
    }

    /// <summary>A balloon calls madvise: its event is queued, and nothing is placed until it is read and acted on.</summary>
    internal void StartRemoval(int first, int count)
    {
        Removal removal = new(first, count) { CallsLeft = _random.Next(4) };
        _removals.Add(removal);
        _events.Enqueue(removal);
    }

    /// <summary>A thread forks: its event is queued, and it waits until that is read.</summary>
    internal void StartFork() => StartRemoval(0, 0);

    /// <summary>The madvise threads whose event was read run on: first the flag falls, then the pages go.</summary>
    internal void RunMadvise()
    {
        foreach (Removal removal in _removals.Where(r => r.IsRead).ToArray())
        {
            if (!removal.IsSettled)
            {
                removal.IsSettled = true;
                continue;
            }

            for (int page = removal.First; page < removal.First + removal.Count; page++)
            {
                _memory.Zap(page);
            }

            _removals.Remove(removal);
        }
    }

    public int Read(Span<UffdMessage> into, out UffdOutcome outcome)
    {
        outcome = UffdOutcome.Done;
        int count = 0;
        while (count < into.Length && _faults.TryDequeue(out FakeVcpu? vcpu))
        {
            // A fault that was resolved before it is read leaves no message (section 6, row 8).
            if (vcpu.Waits && vcpu.Queued)
            {
                vcpu.Queued = false;
                ulong flags = vcpu.Minor ? (ulong)UffdPagefaultFlags.Minor : 0;
                into[count++] = new UffdMessage(UffdEvent.Pagefault, flags, AddressOf(vcpu.Page), vcpu.ThreadId);
            }
        }

        while (count < into.Length && _events.TryDequeue(out Removal? removal))
        {
            removal.IsRead = true;
            into[count++] = removal.Count > 0
                ? new UffdMessage(UffdEvent.Remove, AddressOf(removal.First), AddressOf(removal.First + removal.Count), 0)
                : new UffdMessage(UffdEvent.Fork, 0, 0, 0);
        }

        MessagesRead += count;
        AfterRead?.Invoke();
        return count;
    }

    public UffdResult Wake(nuint start, nuint length)
    {
        WakeRange(PageOf(start), (int)((long)length >> _memory.PageSize.Shift));
        Interleave?.Invoke();
        return new UffdResult(UffdOutcome.Done, (long)length, 0);
    }

    public UffdResult Copy(nuint destination, nuint source, nuint length, UffdPlaceFlags flags)
    {
        Assert.True(_memory.IsHuge || length <= 1 << 20, "A COPY that long keeps its waiters waiting.");
        return Place(destination, length, flags, (page, index) => PutFrame(page, Content(source + (nuint)(index << _memory.PageSize.Shift))));
    }

    public UffdResult Zeropage(nuint start, nuint length, UffdPlaceFlags flags)
    {
        Assert.False(_memory.IsHuge, "Hugetlb memory has no ZEROPAGE.");
        return Place(start, length, flags, (page, _) => PutFrame(page, 0));
    }

    public UffdResult Continue(nuint start, nuint length, UffdPlaceFlags flags)
    {
        Assert.True((Modes & UffdModes.Minor) != 0, "CONTINUE needs a registration for minor faults.");
        return Place(start, length, flags, (page, _) =>
        {
            if (_memory.Frames[page] is null)
            {
                return UffdOutcome.NotInPageCache;
            }

            bool mapped = _mapped[page];
            _mapped[page] = true;
            return mapped ? UffdOutcome.AlreadyPresent : UffdOutcome.Done;
        });
    }

    public UffdResult Poison(nuint start, nuint length, UffdPlaceFlags flags) => Place(start, length, flags, (page, _) =>
    {
        bool there = _mapped[page] || _poisoned[page];
        _poisoned[page] = !_mapped[page];
        return there ? UffdOutcome.AlreadyPresent : UffdOutcome.Done;
    });

    public UffdResult Move(nuint destination, nuint source, nuint length, UffdMoveFlags flags)
    {
        // The placer's own DONTNEED came right before, which this kernel does not see: what was there is lost.
        int first = PageOf(destination);
        for (int page = first; page < first + (int)((long)length >> _memory.PageSize.Shift); page++)
        {
            Erased += _mapped[page] ? 1 : 0;
            _memory.Zap(page);
        }

        return Place(destination, length, UffdPlaceFlags.None, (page, index) => PutFrame(page, Content(source + (nuint)(index << _memory.PageSize.Shift))));
    }

    public bool IsPresent(nuint address) => _mapped[PageOf(address)];

    private nuint AddressOf(int page) => Address + (nuint)((long)page << _memory.PageSize.Shift);

    private int PageOf(nuint address) => (int)((long)(address - Address) >> _memory.PageSize.Shift);

    private static unsafe long Content(nuint source) => Marshal.ReadInt64((nint)source);

    private void Queue(FakeVcpu vcpu)
    {
        vcpu.Queued = true;
        _faults.Enqueue(vcpu);
    }

    private UffdOutcome PutFrame(int page, long content)
    {
        if (_mapped[page] || (_memory.IsShared && _memory.Frames[page] is not null) || (_memory.IsHuge && _memory.Pool <= 0))
        {
            return UffdOutcome.AlreadyPresent;
        }

        _memory.Frames[page] = content;
        _memory.Pool--;
        _mapped[page] = true;
        _poisoned[page] = false;
        return UffdOutcome.Done;
    }

    private void WakeRange(int first, int count)
    {
        foreach (FakeVcpu vcpu in _vcpus.Where(v => v.Waits && v.Page >= first && v.Page < first + count))
        {
            vcpu.Waits = false;
            vcpu.Queued = false;
        }
    }

    private UffdResult Place(nuint start, nuint length, UffdPlaceFlags flags, Func<int, int, UffdOutcome> one)
    {
        Interleave?.Invoke();
        UffdResult result = PlaceNow(start, length, flags, one);
        Interleave?.Invoke();
        return result;
    }

    private UffdResult PlaceNow(nuint start, nuint length, UffdPlaceFlags flags, Func<int, int, UffdOutcome> one)
    {
        Calls++;
        int first = PageOf(start);
        int pages = (int)((long)length >> _memory.PageSize.Shift);
        Assert.True(pages > 0 && first >= 0 && first + pages <= _mapped.Length, "A placing call outside of the registered range.");
        if (TargetGone)
        {
            return new UffdResult(UffdOutcome.TargetGone, 0, 3);
        }

        if (NotRegistered)
        {
            return new UffdResult(UffdOutcome.NotRegistered, 0, 2);
        }

        if (IsChanging())
        {
            return new UffdResult(UffdOutcome.AddressSpaceChanging, 0, 11);
        }

        if (OutOfMemoryCalls > 0)
        {
            OutOfMemoryCalls--;
            return new UffdResult(UffdOutcome.OutOfMemory, 0, 12);
        }

        int done = 0;
        UffdOutcome stop = UffdOutcome.Done;
        for (; done < pages && stop == UffdOutcome.Done; done++)
        {
            stop = done > 0 && _random.Next(100) < PartialPercent ? UffdOutcome.AddressSpaceChanging : one(first + done, done);
            if (stop != UffdOutcome.Done)
            {
                break;
            }
        }

        long bytes = (long)done << _memory.PageSize.Shift;
        if ((flags & UffdPlaceFlags.DontWake) == 0)
        {
            WakeRange(first, done);
        }

        return stop == UffdOutcome.Done ? new UffdResult(UffdOutcome.Done, bytes, 0)
            : done > 0 ? new UffdResult(UffdOutcome.Partial, bytes, 11)
            : new UffdResult(stop, 0, 17);
    }

    private bool IsChanging()
    {
        bool changing = false;
        foreach (Removal removal in _removals)
        {
            if (removal.IsRead && !removal.IsSettled && removal.CallsLeft-- <= 0)
            {
                removal.IsSettled = true;
            }

            changing |= !removal.IsSettled;
        }

        return changing;
    }
}
