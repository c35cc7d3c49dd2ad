namespace Postcopy.Uffd;

/// <summary>
/// Whether the fault thread looks for its next message or sleeps. It looks when the last wait was shorter than the limit,
/// because faults come in bursts; looks in vain are paid for by time that passed, a tenth of it. Who looks uses up his
/// share of a processor that others want too, and then waits for it longer than a sleeper would (measured beside 8 busy
/// threads: 2.2 times): when the processor was taken away between two looks, it only sleeps, for twenty times as long as it was
/// away and 100 ms at most: other threads take it for milliseconds, an interrupt or a hypervisor for less. So it does when a
/// look in vain is followed by a message at once: the thread that faults was waiting for the processor of the one who looked
/// (beside 8 busy threads the 90th percentile of a stall was the whole limit, 120 us for C's 20). Then it sleeps for a
/// shorter while, because the scheduler puts the two beside each other now and then on a machine that is idle, too.
/// </summary>
/// <remarks>For one thread. Allocates nothing.</remarks>
internal sealed class SpinBudget
{
    private const long Share = 10;
    private const long SavedLimits = 20;
    private const long CrowdedTimes = 20;
    private const long CrowdedFor = 100_000_000;
    private const long InTheWayFor = 10_000_000;

    private readonly long _limit;
    private readonly bool _forEver;
    private readonly TimeProvider _clock;
    private long _credit;
    private long _creditAt;
    private long _start;
    private long _until;
    private long _lastLook;
    private long _vainAt = long.MinValue;
    private long _crowdedUntil = long.MinValue;
    private bool _wasShort;
    private bool _looked;

    internal SpinBudget(TimeSpan limit, int processors, TimeProvider? clock = null)
    {
        _clock = clock ?? TimeProvider.System;
        _forEver = limit == Timeout.InfiniteTimeSpan && processors > 1;
        _limit = processors > 1 && !_forEver ? Ticks(limit.Ticks * 100) : 0;
        _creditAt = _clock.GetTimestamp();
    }

    /// <summary>A wait begins, of so many nanoseconds at most; negative is for ever.</summary>
    internal void Begin(long pause)
    {
        _looked = false;
        if (_limit == 0 && !_forEver)
        {
            return;
        }

        _start = _clock.GetTimestamp();
        long most = pause < 0 ? long.MaxValue : Ticks(pause);
        if (_forEver)
        {
            _until = most == long.MaxValue ? most : _start + most;
            return;
        }

        _credit = Math.Min(_credit + ((_start - _creditAt) / Share), SavedLimits * _limit);
        _creditAt = _start;
        _until = _wasShort && _credit >= _limit && most >= _limit && _start >= _crowdedUntil ? _start + _limit : _start;
        _lastLook = _start;
    }

    /// <summary>True while it may look once more, without waiting.</summary>
    internal bool MayLook()
    {
        if ((_limit == 0 && !_forEver) || _until == _start)
        {
            return false;
        }

        long now = _clock.GetTimestamp();
        if (!_forEver && now - _lastLook > _limit / 2)
        {
            _crowdedUntil = now + Math.Min(Ticks(CrowdedFor), CrowdedTimes * (now - _lastLook));
        }

        _lastLook = now;
        if (!_looked || now < _until)
        {
            _looked = true;
            return true;
        }

        // In vain.
        _credit -= now - _start;
        _vainAt = now;
        return false;
    }

    /// <summary>The wait is over.</summary>
    internal void End()
    {
        if (_limit == 0)
        {
            return;
        }

        long now = _clock.GetTimestamp();
        _wasShort = now - _start < _limit;
        if (_vainAt >= _start && now - _vainAt < _limit / 2)
        {
            _crowdedUntil = Math.Max(_crowdedUntil, now + Ticks(InTheWayFor));
        }
    }

    private long Ticks(long nanoseconds) => (long)(nanoseconds * (_clock.TimestampFrequency / 1e9));
}
