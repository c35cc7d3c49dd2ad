namespace Postcopy.Uffd.Tests.Blocktime;

/// <summary>Plays one random sequence of events against a tracker and the oracle and compares what they say.</summary>
/// <remarks>
/// The script's clock only goes forward; the stamps handed over are as late as real ones: a begin is stamped some time before it is
/// recorded (never before the reader's last), an end likewise, in any order against the others.
/// </remarks>
internal sealed class BlocktimeScript
{
    internal const int MostSlots = 4096;

    private readonly Random _random;
    private readonly BlocktimeTracker _tracker;
    private readonly BlocktimeOracle _oracle;
    private readonly List<VcpuSlot> _slots = [];
    private readonly int _pages;
    private readonly int _lateness;
    private long _now = 1000;
    private long _readerAt;
    private long _lastTotal;
    private bool _abandoned;

    internal BlocktimeScript(int seed, int slots, int pages, int lateness, int ringCapacity)
    {
        _random = new Random(seed);
        _pages = pages;
        _lateness = lateness;
        IdleSlots policy = _random.Next(2) == 0 ? IdleSlots.LeftOut : IdleSlots.StandingStill;
        _oracle = new BlocktimeOracle(policy);
        _tracker = new BlocktimeTracker(new BlocktimeOptions { MaxSlots = Math.Min(slots + 8, MostSlots), IdleSlots = policy, RingCapacity = ringCapacity, TimelineCapacity = 1 << 16 });
        for (int i = 0; i < slots; i++)
        {
            Add(0);
        }
    }

    internal BlocktimeTracker Tracker => _tracker;

    internal void Play(int events, bool rareEvents)
    {
        for (int i = 0; i < events; i++)
        {
            _now += _random.Next(0, 20);
            int dice = _random.Next(1000);
            switch (dice)
            {
                case < 440:
                    Begin();
                    break;
                case < 500:
                    BeginOther();
                    break;
                case < 900:
                    Place();
                    break;
                case < 940:
                    _tracker.Fold();
                    break;
                case < 950:
                    _tracker.NoteReader(_readerAt = Math.Max(_readerAt, _now - _random.Next(_lateness)));
                    break;
                default:
                    if (rareEvents)
                    {
                        Rare(dice);
                    }

                    break;
            }
        }
    }

    internal void CloseAll() => PlaceRange(0, (nuint)(_pages * 4096), _now += 50);

    internal string? Compare(bool exact)
    {
        BlocktimeReport report = _tracker.Snapshot(_now);
        BlocktimeOracle.Figures truth = _oracle.Read(_now);
        long slack = exact ? 0 : report.ErrorBoundNanoseconds;
        // Exactness is asserted on scripts read once, at the end: a reading in between may have run ahead (and must not go back).
        string? wrong = Check("total", truth.Total, report.TotalNanoseconds, slack)
            ?? Check("total down", truth.TotalDown, report.TotalLinkDownNanoseconds, slack);
        for (int i = 0; i < _slots.Count; i++)
        {
            VcpuBlocktime row = report.Vcpus[i];
            wrong ??= Check($"slot {i}", truth.Blocked[i], row.BlocktimeNanoseconds, slack)
                ?? Check($"slot {i} down", truth.BlockedDown[i], row.LinkDownNanoseconds, slack)
                ?? Check($"slot {i} overlap", truth.Overlap[i], row.OverlapNanoseconds, slack);
            if (row.OverlapNanoseconds > row.BlocktimeNanoseconds)
            {
                wrong ??= $"slot {i}: overlap {row.OverlapNanoseconds} > blocktime {row.BlocktimeNanoseconds}";
            }

            if (exact)
            {
                wrong ??= Check($"slot {i} episodes", truth.Episodes[i], row.Episodes, 0);
            }
        }

        if (exact)
        {
            wrong ??= Check("latency count", truth.Latencies.Count, report.VcpuLatency.Count, 0)
                ?? Check("unresolved", truth.Unresolved, report.Unresolved, 0)
                ?? Check("unresolved of others", truth.OtherUnresolved, report.OtherUnresolved, 0)
                ?? Check("episodes of others", truth.OtherEpisodes, report.OtherLatency.Count, 0)
                ?? Check("longest of others", truth.OtherLongest, report.OtherLatency.MaxNanoseconds, 0)
                ?? Check("longest", truth.Latencies.DefaultIfEmpty().Max(), report.VcpuLatency.MaxNanoseconds, 0)
                ?? Check("excess", 0, report.ReadingExcessNanoseconds, 0);
        }

        return wrong;
    }

    /// <summary>A reading in between: nothing may go down, and the total never exceeds what any lasting member waited.</summary>
    internal string? Peek()
    {
        BlocktimeReport report = _tracker.Snapshot(_now);
        string? wrong = report.TotalNanoseconds < _lastTotal ? $"total went from {_lastTotal} to {report.TotalNanoseconds}" : null;
        _lastTotal = report.TotalNanoseconds;
        return wrong;
    }

    private static string? Check(string what, long expected, long actual, long slack) =>
        Math.Abs(expected - actual) <= slack ? null : $"{what}: expected {expected}, got {actual}, allowed error {slack}";

    private void Add(long at)
    {
        _slots.Add(_tracker.AddVcpu((uint)_slots.Count + 1, at));
        _oracle.Add(at);
    }

    private nuint Page() => (nuint)(_random.Next(_pages) * 4096);

    private void Begin()
    {
        int index = _random.Next(_slots.Count);
        VcpuSlot slot = _slots[index];
        if (slot.Removed)
        {
            return;
        }

        nuint page = Page();
        _readerAt = Math.Max(_readerAt, _now - _random.Next(_lateness));
        BeginResult result = _tracker.Begin(slot.ThreadId, page, _readerAt);
        if (_oracle.Begin(index, page, _readerAt) != result.Kind)
        {
            throw new InvalidOperationException($"begin on slot {index} was {result.Kind}");
        }

        if (result.Kind == BeginKind.Duplicate)
        {
            return;
        }

        if (_random.Next(10) == 0)
        {
            _now += _random.Next(5);
            PlaceRange(page, 4096, _now - _random.Next(_lateness));
        }

        if (_random.Next(8) == 0)
        {
            _tracker.Cancel(result.Ticket);
            _oracle.Cancel(index);
        }
        else
        {
            _tracker.Confirm(result.Ticket);
            _oracle.Confirm(index);
        }
    }

    private void BeginOther()
    {
        uint thread = (uint)_random.Next(4) is 0 ? 0 : 100_000 + (uint)_random.Next(3);
        nuint page = Page();
        _readerAt = Math.Max(_readerAt, _now - _random.Next(_lateness));
        BeginResult result = _tracker.Begin(thread, page, _readerAt);
        if (_oracle.BeginOther(thread, page, _readerAt) != result.Kind)
        {
            throw new InvalidOperationException($"begin of thread {thread} was {result.Kind}");
        }

        if (result.Kind == BeginKind.Duplicate)
        {
            return;
        }

        if (_random.Next(8) == 0)
        {
            _tracker.Cancel(result.Ticket);
            _oracle.CancelOther();
        }
        else
        {
            _tracker.Confirm(result.Ticket);
            _oracle.ConfirmOther();
        }
    }

    private void Place()
    {
        nuint pages = _random.Next(12) switch { 0 => 2, 1 => (nuint)_pages, 2 => 40, _ => 1 };
        PlaceRange(Page(), pages * 4096, _now - _random.Next(_lateness));
    }

    private void PlaceRange(nuint start, nuint length, long at)
    {
        _tracker.End(start, length, at);
        _oracle.End(start, length, at);
    }

    private void Rare(int dice)
    {
        int index = _random.Next(_slots.Count);
        VcpuSlot slot = _slots[index];
        if (dice == 999 && !_abandoned)
        {
            // Once: the guest is given up, or the link recovers after all.
            _abandoned = true;
            _readerAt = Math.Max(_readerAt, _now + 1);
            _tracker.NoteReader(_readerAt);
            _tracker.Abandon(_now);
            _oracle.Abandon(_now);
            _now++;
        }
        else if (dice < 970 && !slot.Removed)
        {
            bool idle = _random.Next(2) == 0;
            _tracker.SetIdle(slot, idle, _now);
            _oracle.SetIdle(index, idle, _now);
        }
        else if (dice < 978)
        {
            bool up = _random.Next(2) == 0;
            _tracker.SetLink(up, _now);
            _oracle.SetLink(up, _now);
        }
        else if (dice < 990 && !slot.Removed)
        {
            _readerAt = Math.Max(_readerAt, _now + 1);
            _tracker.NoteReader(_readerAt);
            _tracker.LeaveGuest(slot, _now);
            _oracle.Leave(index, _now);
            _now++;
        }
        else if (dice < 995 && _slots.Count < _tracker.MaxSlots)
        {
            Add(_now);
        }
        else if (!slot.Removed)
        {
            _readerAt = Math.Max(_readerAt, _now + 1);
            _tracker.RemoveVcpu(slot, _now);
            _oracle.Remove(index, _now);
            _now++;
        }
    }
}
