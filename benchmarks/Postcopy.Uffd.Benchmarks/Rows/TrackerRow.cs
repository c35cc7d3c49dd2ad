using System.Diagnostics;
using Postcopy.Uffd.Benchmarks.Compare;

namespace Postcopy.Uffd.Benchmarks.Rows;

/// <summary>What blocktime costs: one fault from its message to its end, and placements that nobody waits for.</summary>
internal static class TrackerRow
{
    private const double FaultLimit = 100;
    private const double PlacementLimit = 10;

    private static readonly nuint s_page = unchecked((nuint)0x7000_0000_0000);

    private static long s_sink;
    private static uint s_next;

    internal static IEnumerable<RowResult> Measure(ComparisonOptions options)
    {
        int iterations = (int)options.Size(2_000_000, 20_000);
        double clock = Statistics.Median(Rounds(options, () => PerOperation<Clock>(Tracker(1), iterations)));
        RowResult fault = RowResult.Absolute("tracker", "begin and end of one fault, clock reads included, through 100 ns", "ns", FaultLimit,
            Rounds(options, () => PerOperation<Fault>(Tracker(1), iterations)));
        yield return fault with
        {
            Figures = new Dictionary<string, double>(fault.Figures) { ["nanosecondsPerClockRead"] = clock, ["clockReads"] = 2 },
        };
        foreach (int slots in new[] { 1, 64, 1024 })
        {
            BlocktimeTracker tracker = Tracker(slots);
            yield return RowResult.Absolute($"tracker.placement-{slots}",
                $"a placement without waiter, {slots} slots, all but one waiting for other pages, through 10 ns", "ns", PlacementLimit,
                Rounds(options, () => PerOperation<Placement>(tracker, iterations)));
        }
    }

    private static List<double> Rounds(ComparisonOptions options, Func<double> measure)
    {
        // Twice for nothing: the second run finds the code compiled with what the first has learnt.
        _ = measure();
        Thread.Sleep(options.Quick ? 0 : 200);
        _ = measure();
        return [.. Enumerable.Range(0, options.Rounds).Select(_ => measure())];
    }

    private static BlocktimeTracker Tracker(int slots)
    {
        BlocktimeTracker tracker = new(new BlocktimeOptions { MaxSlots = 1024 });
        for (uint i = 1; i <= slots; i++)
        {
            _ = tracker.AddVcpu(i);
        }

        for (uint i = 2; i <= slots; i++)
        {
            tracker.Confirm(tracker.Begin(i, s_page + (i * 0x10000), tracker.Now()).Ticket);
        }

        return tracker;
    }

    private static double PerOperation<T>(BlocktimeTracker tracker, int iterations)
        where T : IOperation
    {
        long start = Stopwatch.GetTimestamp();
        for (int i = 0; i < iterations; i++)
        {
            T.Run(tracker);
        }

        return Stopwatch.GetElapsedTime(start).TotalNanoseconds / iterations;
    }

    /// <summary>A type, so that the loop contains the call itself and none through a delegate.</summary>
    private interface IOperation
    {
        static abstract void Run(BlocktimeTracker tracker);
    }

    private readonly struct Fault : IOperation
    {
        public static void Run(BlocktimeTracker tracker)
        {
            tracker.Confirm(tracker.Begin(1, s_page, tracker.Now()).Ticket);
            tracker.End(s_page, 4096, tracker.Now());
        }
    }

    private readonly struct Placement : IOperation
    {
        // Pages in a row, as a stream brings them: one alone is either lucky or not.
        public static void Run(BlocktimeTracker tracker) => tracker.End(s_page + 0x8000 + ((nuint)(s_next++ & 1023) << 20), 4096, 0);
    }

    private readonly struct Clock : IOperation
    {
        public static void Run(BlocktimeTracker tracker) => s_sink = tracker.Now();
    }
}
