namespace Postcopy.Uffd;

/// <summary>
/// Finds pages that were asked for and stay away, from the bitmaps: the fault path pays nothing for it. A page's age
/// counts from the first look that saw it open, so an alarm is late by at most one interval.
/// </summary>
internal sealed class StallWatch
{
    private const int MaxPages = 1024;

    private readonly RamBlockRegistry _registry;
    private readonly TimeProvider _clock;
    private readonly TimeSpan _after;
    private Dictionary<(RamBlock Block, long Page), Open> _open = [];
    private long _lastLook;
    private bool _looked;

    internal StallWatch(RamBlockRegistry registry, TimeProvider clock, TimeSpan after)
    {
        _registry = registry;
        _clock = clock;
        _after = after;
        Interval = TimeSpan.FromMilliseconds(Math.Clamp(after.TotalMilliseconds / 4, 10, 1000));
    }

    /// <summary>How often to look.</summary>
    internal TimeSpan Interval { get; }

    private readonly record struct Open(long Since, bool Told);

    /// <summary>One look, if it is time for one; the pages whose time is up since the last.</summary>
    internal List<StallAlarm> Look()
    {
        long now = _clock.GetTimestamp();
        List<StallAlarm> alarms = [];
        TimeSpan since = _clock.GetElapsedTime(_lastLook, now);
        if (_looked && since >= TimeSpan.Zero && since < Interval)
        {
            return alarms;
        }

        if (since < TimeSpan.Zero)
        {
            // The clock was set back: ages count anew.
            _open.Clear();
        }

        _looked = true;
        _lastLook = now;
        Dictionary<(RamBlock Block, long Page), Open> still = [];
        foreach (RamBlock block in _registry.Blocks)
        {
            for (long page = 0; still.Count < MaxPages && block.TryFindOpenRequest(page, out page); page++)
            {
                Open open = _open.GetValueOrDefault((block, page), new Open(now, false));
                TimeSpan age = _clock.GetElapsedTime(open.Since, now);
                if (!open.Told && age >= _after)
                {
                    open = open with { Told = true };
                    alarms.Add(new StallAlarm(block, page << block.PageSize.Shift, age));
                }

                still.Add((block, page), open);
            }
        }

        _open = still;
        return alarms;
    }
}
