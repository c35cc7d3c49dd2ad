using System.Diagnostics;

namespace Postcopy.Uffd.Benchmarks.Soak;

/// <summary>The totals while they grow; any thread adds.</summary>
internal sealed class SoakCounters
{
    private readonly long _start = Stopwatch.GetTimestamp();
    private long _faults;
    private long _duplicates;
    private long _stuck;
    private long _longest;

    internal long Checked;
    internal long Wrong;
    internal long Recoveries;
    internal long Discards;
    internal long PagesDiscarded;
    internal long Migrations;
    internal long Refused;

    internal TimeSpan Elapsed => Stopwatch.GetElapsedTime(_start);

    /// <summary>The destination of the round that runs: its counts are added to those of the rounds before.</summary>
    internal PostcopyDestination? Current { get; private set; }

    internal void Begin(PostcopyDestination destination) => Current = destination;

    internal void End()
    {
        FaultStatistics faults = Current!.Faults;
        Current = null;
        _faults += faults.Messages - faults.Duplicates;
        _duplicates += faults.Duplicates;
        _stuck += faults.StuckFaults;
    }

    /// <summary>A page that was read.</summary>
    internal void Note(bool right, long began)
    {
        _ = Interlocked.Increment(ref Checked);
        if (!right)
        {
            _ = Interlocked.Increment(ref Wrong);
        }

        long took = Stopwatch.GetTimestamp() - began;
        for (long seen = Volatile.Read(ref _longest); took > seen; seen = Volatile.Read(ref _longest))
        {
            _ = Interlocked.CompareExchange(ref _longest, took, seen);
        }
    }

    internal SoakTotals Totals()
    {
        FaultStatistics now = Current?.Faults ?? new FaultStatistics();
        return new SoakTotals
        {
            Seconds = Elapsed.TotalSeconds,
            Faults = _faults + now.Messages - now.Duplicates,
            Duplicates = _duplicates + now.Duplicates,
            PagesChecked = Interlocked.Read(ref Checked),
            PagesWrong = Interlocked.Read(ref Wrong),
            Recoveries = Interlocked.Read(ref Recoveries),
            Discards = Interlocked.Read(ref Discards),
            PagesDiscarded = Interlocked.Read(ref PagesDiscarded),
            Migrations = Interlocked.Read(ref Migrations),
            PagesRefused = Interlocked.Read(ref Refused),
            StuckFaults = _stuck + now.StuckFaults,
            Collections = GC.CollectionCount(0),
            LongestTouchMilliseconds = Volatile.Read(ref _longest) * 1000.0 / Stopwatch.Frequency,
        };
    }
}
