namespace Postcopy.Uffd;

/// <summary>Adds up a delay that callers may or may not know (negative: unknown).</summary>
internal struct DelayCounter
{
    private long _count;
    private long _sum;
    private long _max;

    internal void Add(long nanoseconds)
    {
        if (nanoseconds >= 0)
        {
            _count++;
            _sum += nanoseconds;
            _max = Math.Max(_max, nanoseconds);
        }
    }

    internal readonly DelaySummary Summarize() => new(_count, _count == 0 ? 0 : _sum / _count, _max);
}
