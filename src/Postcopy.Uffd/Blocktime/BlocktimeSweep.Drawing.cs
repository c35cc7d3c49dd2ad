namespace Postcopy.Uffd;

// The timeline: bounded, and on the hot path never more than a store into memory taken at the start. Only the holder of
// the fold writes it, and who cannot have the fold leaves his records in the ring; so nobody waits for it.
internal sealed partial class BlocktimeSweep
{
    private const int FirstGrowth = 64;

    private void Draw(int slot, long start, long end, bool open)
    {
        if (start == end)
        {
            return;
        }

        if (TimelineCount == Timeline.Length && MayGrow(TimelineCount))
        {
            Timeline = Grown(Timeline, TimelineCount);
        }

        if (TimelineCount < Timeline.Length)
        {
            Timeline[TimelineCount++] = new BlockedInterval(slot, start, end, open);
        }
        else if (_timelineCapacity > 0)
        {
            TimelineDropped++;
        }
    }

    private void DrawOverlap(long start, long end)
    {
        if (OverlapCount > 0 && Overlaps[OverlapCount - 1].End == start)
        {
            Overlaps[OverlapCount - 1] = new OverlapInterval(Overlaps[OverlapCount - 1].Start, end);
            return;
        }

        if (OverlapCount == Overlaps.Length && MayGrow(OverlapCount))
        {
            Overlaps = Grown(Overlaps, OverlapCount);
        }

        if (OverlapCount < Overlaps.Length)
        {
            Overlaps[OverlapCount++] = new OverlapInterval(start, end);
        }
        else if (_timelineCapacity > 0)
        {
            OverlapsDropped++;
        }
    }

    // A reading's copy holds what was filled, and gets room for what is open; the sweep itself never grows.
    private bool MayGrow(int count) => _tentative && count < _timelineCapacity;

    private T[] Grown<T>(T[] from, int count)
    {
        T[] grown = new T[Math.Min(_timelineCapacity, Math.Max(FirstGrowth, from.Length * 2))];
        Array.Copy(from, grown, count);
        return grown;
    }
}
