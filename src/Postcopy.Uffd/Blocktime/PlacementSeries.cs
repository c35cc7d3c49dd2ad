namespace Postcopy.Uffd;

/// <summary>
/// Placed bytes over time, in bounded memory for a migration of any length: when it is full, every other sample goes and
/// the interval doubles. Written by a control thread, never on the hot path.
/// </summary>
internal sealed class PlacementSeries
{
    internal const int Capacity = 2048;

    private readonly object _lock = new();
    private readonly PlacementSample[] _samples = new PlacementSample[Capacity];
    private int _count;
    private long _interval;

    internal PlacementSeries(TimeSpan interval) => _interval = interval.Ticks * 100;

    /// <summary>Keeps the sample if its time has come.</summary>
    internal void Sample(long at, long bytes, bool last = false)
    {
        lock (_lock)
        {
            if (_count > 0 && at - _samples[_count - 1].At < (last ? 1 : _interval))
            {
                return;
            }

            if (_count == Capacity)
            {
                Thin();
            }

            _samples[_count++] = new PlacementSample(at, bytes);
        }
    }

    internal IReadOnlyList<PlacementSample> ToList()
    {
        lock (_lock)
        {
            return Array.AsReadOnly(_samples.AsSpan(0, _count).ToArray());
        }
    }

    // The first stays: the origin of the picture.
    private void Thin()
    {
        int kept = 0;
        for (int i = 0; i < _count; i += 2)
        {
            _samples[kept++] = _samples[i];
        }

        _count = kept;
        _interval *= 2;
    }
}
