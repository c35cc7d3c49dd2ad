namespace Postcopy.Breaking.Tests;

/// <summary>A clock that can be set: its date and its timestamps jump by hours in both directions, its timers go on.</summary>
internal sealed class JumpingClock : TimeProvider
{
    private long _ticks;
    private long _dateTicks;
    private int _jumps;

    internal int Jumps => Volatile.Read(ref _jumps);

    public override long GetTimestamp() => base.GetTimestamp() + Interlocked.Read(ref _ticks);

    public override DateTimeOffset GetUtcNow() => base.GetUtcNow() + TimeSpan.FromTicks(Interlocked.Read(ref _dateTicks));

    /// <summary>The timestamps jump, as when a suspended host goes on; backwards no monotonic clock would, and yet nothing may hang.</summary>
    internal void Jump(TimeSpan by)
    {
        _ = Interlocked.Add(ref _ticks, (long)(by.TotalSeconds * TimestampFrequency));
        _ = Interlocked.Increment(ref _jumps);
    }

    /// <summary>Somebody sets the date.</summary>
    internal void SetDate(TimeSpan by)
    {
        _ = Interlocked.Exchange(ref _dateTicks, by.Ticks);
        _ = Interlocked.Increment(ref _jumps);
    }
}
