using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd;

/// <summary>
/// A growing pause between tries of something that nobody announces: a few processor hints, then sleeps from 10 us to
/// 2 ms. Never a spin without end.
/// </summary>
internal struct BackOff
{
    private const int SpinRounds = 6;
    private const long FirstSleep = 10_000;
    private const long LongestSleep = 2_000_000;

    private int _round;
    private long _sleep;

    /// <summary>How often it paused.</summary>
    internal readonly int Rounds => _round;

    internal void Pause()
    {
        InterleavingPoint.Yield(InterleavingPoint.Waits);
        if (_round++ < SpinRounds)
        {
            Thread.SpinWait(1 << _round);
            return;
        }

        _sleep = _sleep == 0 ? FirstSleep : Math.Min(_sleep * 2, LongestSleep);
        Libc.Pause(_sleep);
    }
}
