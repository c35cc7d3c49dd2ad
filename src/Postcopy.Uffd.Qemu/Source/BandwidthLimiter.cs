namespace Postcopy.Uffd.Qemu;

/// <summary>A budget of bytes that fills with time. One thread takes; any thread may change the rate.</summary>
internal sealed class BandwidthLimiter
{
    private static readonly TimeSpan s_burst = TimeSpan.FromMilliseconds(10);
    private readonly TimeProvider _time;
    private long _bytesPerSecond;
    private long _refilled;
    private double _budget;

    internal BandwidthLimiter(TimeProvider time, long bytesPerSecond)
    {
        _time = time;
        _bytesPerSecond = bytesPerSecond;
        _refilled = time.GetTimestamp();
    }

    internal long BytesPerSecond
    {
        get => Volatile.Read(ref _bytesPerSecond);
        set => Volatile.Write(ref _bytesPerSecond, value);
    }

    /// <summary>Zero when the next bytes may go now, and then they are paid for, going into debt; else how long to wait.</summary>
    internal TimeSpan Take(long bytes)
    {
        long rate = BytesPerSecond;
        if (rate <= 0)
        {
            return TimeSpan.Zero;
        }

        long now = _time.GetTimestamp();
        // A clock that is set back must not turn into a debt of hours.
        double seconds = Math.Max(0, _time.GetElapsedTime(_refilled, now).TotalSeconds);
        _budget = Math.Min(_budget + (rate * seconds), rate * s_burst.TotalSeconds);
        _refilled = now;
        if (_budget < 0)
        {
            return TimeSpan.FromSeconds(-_budget / rate);
        }

        _budget -= bytes;
        return TimeSpan.Zero;
    }
}
