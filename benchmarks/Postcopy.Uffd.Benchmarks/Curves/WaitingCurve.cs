using System.Diagnostics;
using Postcopy.Uffd.Benchmarks.Compare;
using Postcopy.Uffd.Benchmarks.Lab;

namespace Postcopy.Uffd.Benchmarks.Curves;

/// <summary>
/// What looking for the next message costs and brings: latency and the fault thread's processor time over the spin limit,
/// for faults that come at various distances. The default of <see cref="FaultReaderOptions.SpinLimit"/> is read off it.
/// </summary>
internal static class WaitingCurve
{
    private static readonly double[] s_limits = [0, 20, 50, 100, 200, 500, 1000, double.PositiveInfinity];
    private static readonly double[] s_gaps = [0, 50, 200, 1000, 10000];

    internal static CurveTable Measure(bool quick)
    {
        CurveTable table = new("waiting", "spin limit (us)", "between faults (us)", "p50 (us)", "p99 (us)", "CPU of the fault thread (%)");
        using NativeBuffer<byte> page = new(PageSize.Host.Bytes);
        using TouchOrder order = new(4096);
        foreach (double limit in quick ? s_limits[..2] : s_limits)
        {
            FaultReaderOptions reader = new()
            {
                SpinLimit = double.IsPositiveInfinity(limit) ? Timeout.InfiniteTimeSpan : TimeSpan.FromMicroseconds(limit),
            };
            using ServedDestination ours = new(order.Count << 12, page.Address, reader);
            _ = order.Measure(ours.Address);
            ours.Discard();
            foreach (double gap in s_gaps)
            {
                long count = quick ? 10 : gap == 0 ? order.Count : Math.Clamp((long)(500_000 / gap), 50, order.Count);
                long start = Stopwatch.GetTimestamp();
                TimeSpan before = ThreadTime.Of(ours.FaultThread);
                Distribution latency = Distribution.Of(order.Touch(ours.Address, count, TimeSpan.FromMicroseconds(gap)));
                double share = (ThreadTime.Of(ours.FaultThread) - before) / Stopwatch.GetElapsedTime(start);
                table.Add(double.IsPositiveInfinity(limit) ? "no limit" : limit, gap, latency.P50 / 1000, latency.P99 / 1000, share * 100);
                ours.Discard();
            }
        }

        return table;
    }
}
