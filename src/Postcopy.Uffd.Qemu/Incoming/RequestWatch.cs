namespace Postcopy.Uffd.Qemu;

/// <summary>
/// Tells how long pages have been asked for in vain while the urgent channel was silent. From the bitmaps: the fault path pays
/// nothing for it. Pages that came on the main channel meanwhile do not count; those asked for later are looked at when
/// all that were open before have come.
/// </summary>
internal sealed class RequestWatch
{
    private const int MostPages = 1024;
    private readonly List<(RamBlock Block, long Page)> _open = new(MostPages);
    private long _since;
    private long _urgentBytes;

    /// <summary>One look.</summary>
    /// <param name="now">A timestamp of the clock.</param>
    /// <param name="clock">Measures time.</param>
    /// <param name="blocks">All blocks.</param>
    /// <param name="urgentBytes">Bytes received on the urgent channel; any change counts as a sign of life.</param>
    /// <returns>For how long the oldest has been open at least; zero when none is.</returns>
    internal TimeSpan Look(long now, TimeProvider clock, IReadOnlyList<RamBlock> blocks, long urgentBytes)
    {
        if (urgentBytes != _urgentBytes)
        {
            _urgentBytes = urgentBytes;
            _open.Clear();
        }

        _ = _open.RemoveAll(o => o.Block.Received.Test(o.Page));
        if (_open.Count > 0)
        {
            // A clock that was set back begins anew.
            _since = Math.Min(_since, now);
            return clock.GetElapsedTime(_since, now);
        }

        _since = now;
        for (int i = 0; i < blocks.Count; i++)
        {
            for (long page = 0; _open.Count < MostPages && blocks[i].TryFindOpenRequest(page, out page); page++)
            {
                _open.Add((blocks[i], page));
            }
        }

        return TimeSpan.Zero;
    }
}
