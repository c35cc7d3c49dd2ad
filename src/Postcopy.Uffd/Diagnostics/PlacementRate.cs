namespace Postcopy.Uffd;

/// <summary>Bytes a second over the last second or so: sampled by the control thread, read by whoever collects metrics.</summary>
internal sealed class PlacementRate
{
    private static readonly TimeSpan s_window = TimeSpan.FromSeconds(1);

    private readonly TimeProvider _clock;
    private long _since;
    private long _bytes;
    private double _perSecond;

    internal PlacementRate(TimeProvider clock)
    {
        _clock = clock;
        _since = clock.GetTimestamp();
    }

    /// <summary>Bytes a second in the last window that is over; 0 before.</summary>
    internal double BytesPerSecond => Volatile.Read(ref _perSecond);

    /// <summary>Closes the window if its time is up; one thread only.</summary>
    internal void Sample(long bytes)
    {
        long now = _clock.GetTimestamp();
        TimeSpan window = _clock.GetElapsedTime(_since, now);
        if (window >= s_window)
        {
            Volatile.Write(ref _perSecond, (bytes - _bytes) / window.TotalSeconds);
            _bytes = bytes;
            _since = now;
        }
        else if (window < TimeSpan.Zero)
        {
            // The clock was set back.
            _since = now;
        }
    }
}
