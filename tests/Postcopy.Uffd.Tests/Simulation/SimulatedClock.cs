namespace Postcopy.Uffd.Tests.Simulation;

/// <summary>Time that stands still unless the schedule moves it. Nanoseconds.</summary>
internal sealed class SimulatedClock : TimeProvider
{
    private long _now = 1_000_000_000;

    public override long TimestampFrequency => 1_000_000_000;

    /// <summary>Runs at each look at the clock: a placer looks between two tries, holding nothing.</summary>
    internal Action? OnLook { get; set; }

    internal void Advance(long nanoseconds) => _now += nanoseconds;

    public override long GetTimestamp()
    {
        OnLook?.Invoke();
        return _now;
    }
}
