using Postcopy.Uffd.Benchmarks.Compare;
using Postcopy.Uffd.Benchmarks.Lab;

namespace Postcopy.Uffd.Benchmarks.Rows;

/// <summary>From the touch of a missing page to the instruction behind it, timed by the toucher.</summary>
internal static class FaultRows
{
    private const double IdleLimit = 0.01;
    private const double BusyLimit = 0.20;
    private static readonly FaultReaderOptions s_sleep = new() { SpinLimit = TimeSpan.Zero };

    internal static IEnumerable<RowResult> Sleep(ComparisonOptions options)
    {
        yield return Pair("fault-sleep", "fault to resume, both sleep in poll, vs C", Goal.AtMost(1.05), options, s_sleep, spin: false);
        yield return Pair("fault-sleep.unpinned", "the same, threads where the scheduler puts them", Goal.Reported, options, s_sleep, spin: false, pinned: false);
    }

    internal static IEnumerable<RowResult> Spin(ComparisonOptions options)
    {
        yield return Pair("fault-spin", "fault to resume, both spin, vs C", Goal.AtMost(1.05), options, new FaultReaderOptions { SpinLimit = Timeout.InfiniteTimeSpan }, spin: true);
    }

    /// <summary>The default waiting against C asleep in poll, and what the fault thread costs while nothing happens.</summary>
    internal static IEnumerable<RowResult> Adaptive(ComparisonOptions options)
    {
        RowResult result = Pair("fault-adaptive", "fault to resume, our default vs C asleep in poll", Goal.AtMost(0.40), options, new FaultReaderOptions(), spin: false);
        using NativeBuffer<byte> page = new(PageSize.Host.Bytes);
        using ServedDestination ours = new(options.Size(16 << 20, 1 << 20), page.Address);
        using TouchOrder order = new(ours.Bytes >> 12);
        TimeSpan idleFor = TimeSpan.FromSeconds(options.Quick ? 0.2 : 10);
        double idle = Share(ours.FaultThread, idleFor, () => Thread.Sleep(idleFor));

        // Right before: a hypervisor takes free memory back after seconds.
        _ = order.Measure(ours.Address);
        ours.Discard();
        long touches = options.Size(1000, 20);
        TimeSpan gap = TimeSpan.FromMilliseconds(10);
        Distribution sparse = default;
        double at100 = Share(ours.FaultThread, null, () => sparse = Distribution.Of(order.Touch(ours.Address, Math.Min(touches, order.Count), gap)));
        yield return result with
        {
            Figures = new Dictionary<string, double>
            {
                ["idleCpuShare"] = idle,
                ["cpuShareAt100FaultsPerSecond"] = at100,
                ["p50MicrosecondsAt100FaultsPerSecond"] = sparse.P50 / 1000,
            },
            ConditionsHold = idle <= IdleLimit && at100 <= BusyLimit,
            Note = "met only if its two conditions are, below",
        };
        yield return RowResult.Absolute("fault-adaptive.idle", $"processor time of the fault thread over {idleFor.TotalSeconds:0.#} s without faults, through 1 %", "%", IdleLimit * 100, [idle * 100]);
        yield return RowResult.Absolute("fault-adaptive.sparse", "processor time of the fault thread at 100 faults a second, through 20 %", "%", BusyLimit * 100, [at100 * 100]);
    }

    internal static RowResult Pair(string name, string what, Goal goal, ComparisonOptions options, FaultReaderOptions reader, bool spin, bool pinned = true, long bytes = 0)
    {
        bytes = bytes == 0 ? options.Size(16 << 20, 512 << 10) : bytes;
        using NativeBuffer<byte> page = new(PageSize.Host.Bytes);
        using TouchOrder order = new(bytes >> 12);
        using ServedDestination ours = new(bytes, page.Address, reader, pinned);
        using BaselineRegion baseline = new(bytes);
        baseline.Serve(page.Address, spin, pinned);
        return Pairing.Run(name, what, goal, options.Rounds,
            () =>
            {
                Sample sample = order.Measure(ours.Address, pinned);
                ours.Discard();
                return sample;
            },
            () =>
            {
                Sample sample = order.Measure(baseline.Address, pinned);
                baseline.Discard();
                return sample;
            });
    }

    private static double Share(int thread, TimeSpan? duration, Action action)
    {
        long start = System.Diagnostics.Stopwatch.GetTimestamp();
        TimeSpan before = ThreadTime.Of(thread);
        action();
        TimeSpan used = ThreadTime.Of(thread) - before;
        return used / (duration ?? System.Diagnostics.Stopwatch.GetElapsedTime(start));
    }
}
