namespace Postcopy.Uffd.Tests.Blocktime;

/// <summary>
/// Brute force: keeps every wait and every change ever told, and goes through all elementary stretches of time asking each slot
/// what it was doing. Shares no code and no idea with the tracker beyond the definitions.
/// </summary>
internal sealed class BlocktimeOracle(IdleSlots idlePolicy)
{
    private readonly List<Slot> _slots = [];
    private readonly List<(long At, bool Up)> _link = [];
    private readonly List<(uint Thread, Wait Wait)> _others = [];
    private long _abandonedAt = long.MinValue;

    internal int Add(long at)
    {
        Slot slot = new();
        slot.Changes.Add((at, true, null));
        _slots.Add(slot);
        return _slots.Count - 1;
    }

    internal void Remove(int slot, long at)
    {
        Leave(slot, at);
        _slots[slot].Changes.Add((at, false, null));
    }

    internal void SetIdle(int slot, bool idle, long at) => _slots[slot].Changes.Add((at, null, idle));

    internal void SetLink(bool up, long at) => _link.Add((at, up));

    internal BeginKind Begin(int slot, nuint page, long at)
    {
        List<Wait> waits = _slots[slot].Waits;
        if (waits.Count > 0 && waits[^1] is { IsOpen: true } current && current.Page == page)
        {
            return BeginKind.Duplicate;
        }

        // Four open at most: the definition of the product, not of blocktime.
        List<Wait> open = waits.FindAll(w => w.IsOpen);
        if (open.Count == 4)
        {
            open[0].End = waits[waits.IndexOf(open[0]) + 1].Start;
        }

        Wait wait = new() { Page = page, Start = at };
        wait.AbandonAt(_abandonedAt);
        waits.Add(wait);
        return BeginKind.New;
    }

    /// <summary>A thread that is no vCPU, or 0: it waits for any number of pages at once.</summary>
    internal BeginKind BeginOther(uint thread, nuint page, long at)
    {
        if (_others.Exists(o => o.Wait.IsOpen && o.Thread == thread && o.Wait.Page == page))
        {
            return BeginKind.Duplicate;
        }

        Wait wait = new() { Page = page, Start = at };
        wait.AbandonAt(_abandonedAt);
        _others.Add((thread, wait));
        return BeginKind.Other;
    }

    internal void ConfirmOther() => _others[^1].Wait.Confirmed |= _others[^1].Wait.IsOpen;

    internal void CancelOther()
    {
        Wait last = _others[^1].Wait;
        if (last.IsOpen)
        {
            last.Cancelled = true;
            last.End = last.Start;
        }
    }

    /// <summary>Given up: what is open and began by then ends there, and so does what is told later of the time before.</summary>
    internal void Abandon(long at)
    {
        _abandonedAt = Math.Max(_abandonedAt, at);
        foreach (Wait wait in _slots.SelectMany(s => s.Waits).Concat(_others.Select(o => o.Wait)).Where(w => w.IsOpen))
        {
            wait.AbandonAt(at);
        }
    }

    internal void Confirm(int slot)
    {
        List<Wait> waits = _slots[slot].Waits;
        if (!waits[^1].IsOpen)
        {
            return;
        }

        waits[^1].Confirmed = true;
        for (int i = 0; i + 1 < waits.Count; i++)
        {
            if (waits[i].IsOpen && waits[i].Page == waits[^1].Page)
            {
                waits[i].End = waits[i + 1].Start;
            }
        }
    }

    internal void Cancel(int slot)
    {
        Wait last = _slots[slot].Waits[^1];
        if (last.IsOpen)
        {
            last.Cancelled = true;
            last.End = last.Start;
        }
    }

    internal void End(nuint start, nuint length, long at)
    {
        foreach (Wait wait in _slots.SelectMany(s => s.Waits).Concat(_others.Select(o => o.Wait)).Where(w => w.IsOpen && w.Page >= start && w.Page < start + length))
        {
            wait.Cancelled = !wait.Confirmed && at <= wait.Start;
            wait.End = Math.Max(wait.Start, at);
        }
    }

    internal void Leave(int slot, long at)
    {
        foreach (Wait wait in _slots[slot].Waits.Where(w => w.IsOpen && w.Start <= at))
        {
            wait.End = at;
        }
    }

    internal Figures Read(long now)
    {
        int n = _slots.Count;
        List<Wait> ended = [.. _others.Select(o => o.Wait).Where(w => !w.IsOpen && !w.Cancelled)];
        List<(long Start, long End)>[] blocked = new List<(long, long)>[n];
        SortedSet<long> edges = [];
        Figures figures = new(n)
        {
            OtherUnresolved = ended.Count(w => w.Unresolved),
            OtherLongest = ended.Where(w => !w.Unresolved).Select(w => w.End - w.Start).DefaultIfEmpty().Max(),
            OtherEpisodes = ended.Count(w => !w.Unresolved),
        };
        for (int i = 0; i < n; i++)
        {
            blocked[i] = [];
            List<Wait> waits = _slots[i].Waits;
            for (int w = 0; w < waits.Count; w++)
            {
                Wait wait = waits[w];
                long end = wait.IsOpen ? now : wait.End;
                end = Math.Max(wait.Start, w + 1 < waits.Count ? Math.Min(end, waits[w + 1].Start) : end);
                if (wait.Cancelled || (wait.IsOpen && !wait.Confirmed))
                {
                    continue;
                }

                blocked[i].Add((wait.Start, end));
                edges.Add(wait.Start);
                edges.Add(end);
                if (wait.Unresolved)
                {
                    figures.Unresolved++;
                }
                else if (!wait.IsOpen)
                {
                    figures.Episodes[i]++;
                    figures.Latencies.Add(end - wait.Start);
                }
            }

            edges.UnionWith(_slots[i].Changes.Select(c => c.At));
        }

        edges.UnionWith(_link.Select(l => l.At));
        long[] times = [.. edges];
        for (int e = 0; e + 1 < times.Length; e++)
        {
            Stretch(blocked, times[e], times[e + 1] - times[e], figures);
        }

        return figures;
    }

    private void Stretch(List<(long Start, long End)>[] blocked, long at, long length, Figures figures)
    {
        bool down = _link.LastOrDefault(l => l.At <= at, (0, true)).Up == false;
        bool all = true;
        List<int> waiting = [];
        for (int i = 0; i < blocked.Length; i++)
        {
            bool isBlocked = blocked[i].Exists(b => b.Start <= at && at < b.End);
            bool member = _slots[i].Changes.LastOrDefault(c => c.At <= at && c.Member is not null, (0, false, null)).Member!.Value;
            bool idle = _slots[i].Changes.LastOrDefault(c => c.At <= at && c.Idle is not null, (0, null, false)).Idle!.Value;
            figures.Blocked[i] += isBlocked ? length : 0;
            figures.BlockedDown[i] += isBlocked && down ? length : 0;
            if (!member || (idle && idlePolicy == IdleSlots.LeftOut))
            {
                continue;
            }

            all &= isBlocked || idle;
            if (isBlocked)
            {
                waiting.Add(i);
            }
        }

        if (all && waiting.Count > 0)
        {
            figures.Total += length;
            figures.TotalDown += down ? length : 0;
            waiting.ForEach(i => figures.Overlap[i] += length);
        }
    }

    internal sealed class Figures(int slots)
    {
        internal long Total;
        internal long TotalDown;
        internal long Unresolved;
        internal long OtherUnresolved;
        internal long OtherEpisodes;
        internal long OtherLongest;
        internal readonly long[] Blocked = new long[slots];
        internal readonly long[] BlockedDown = new long[slots];
        internal readonly long[] Overlap = new long[slots];
        internal readonly long[] Episodes = new long[slots];
        internal readonly List<long> Latencies = [];
    }

    private sealed class Wait
    {
        internal nuint Page;
        internal long Start;
        internal long End = long.MaxValue;
        internal bool Confirmed;
        internal bool Cancelled;
        internal bool Unresolved;

        internal void AbandonAt(long at)
        {
            if (Start <= at)
            {
                End = at;
                Unresolved = true;
            }
        }

        internal bool IsOpen => End == long.MaxValue;
    }

    private sealed class Slot
    {
        internal readonly List<Wait> Waits = [];
        internal readonly List<(long At, bool? Member, bool? Idle)> Changes = [];
    }
}
