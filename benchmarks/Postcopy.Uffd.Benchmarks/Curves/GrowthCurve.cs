using System.Diagnostics;
using Postcopy.Uffd.Benchmarks.Compare;
using Postcopy.Uffd.Benchmarks.Lab;

namespace Postcopy.Uffd.Benchmarks.Curves;

/// <summary>How cost grows with the guest's memory, the threads that fault, and the RAM blocks: each alone.</summary>
internal static class GrowthCurve
{
    private const int PageBytes = 4096;
    private const int Faults = 20_000;

    private static readonly string[] s_columns = ["grows", "to", "one page placed (us)", "fault p50 (us)", "fault p99 (us)", "faults a second", "discard (ms)"];

    internal static CurveTable Measure(bool quick)
    {
        CurveTable table = new("growth", s_columns);
        // Compiles what is measured.
        _ = Cells("guest", "16 MiB", 16 << 20, threads: 2, blocks: 2, quick);
        foreach (int gibibytes in new[] { 1, 4, 8 })
        {
            table.Add(Cells("guest", $"{gibibytes} GiB", quick ? gibibytes << 20 : (long)gibibytes << 30, threads: 1, blocks: 1, quick));
        }

        foreach (int threads in new[] { 1, 2, 4, 8, 16, 32, 64 })
        {
            table.Add(Cells("vCPU threads", $"{threads}", quick ? 4 << 20 : 256 << 20, threads, blocks: 1, quick));
        }

        foreach (int blocks in new[] { 1, 8, 64, 256, 1024 })
        {
            table.Add(Cells("blocks", $"{blocks}", quick ? 4 << 20 : 256 << 20, threads: 1, blocks, quick));
        }

        return table;
    }

    private static object[] Cells(string what, string value, long bytes, int threads, int blocks, bool quick)
    {
        using NativeBuffer<byte> page = new(PageBytes);
        WarmMemory.Touch(bytes);
        using ServedDestination ours = new(bytes, page.Address, pinned: false, blocks: blocks);
        (double rate, Distribution latency) = Touch(ours, threads, quick ? 200 : Faults);
        ours.Discard();
        double placing = PlaceAll(ours, page.Address);
        long start = Stopwatch.GetTimestamp();
        ours.Discard();
        double discard = Stopwatch.GetElapsedTime(start).TotalMilliseconds;
        return [what, value, placing, latency.P50 / 1000, latency.P99 / 1000, Math.Round(rate), discard];
    }

    /// <summary>Each thread has pages of its own, spread over the whole guest.</summary>
    private static (double Rate, Distribution Latency) Touch(ServedDestination ours, int threads, int faults)
    {
        uint[] order = TouchOrder.Shuffled(0, (int)(ours.Bytes / PageBytes), seed: 1);
        int each = Math.Min(faults, order.Length) / threads;
        TouchOrder[] parts = [.. Enumerable.Range(0, threads).Select(i => new TouchOrder(order.AsSpan(i * each, each)))];
        using Barrier together = new(threads + 1);
        Thread[] touchers = [.. parts.Select(part => new Thread(() =>
        {
            _ = part.Touch(ours.Address, 0, pinned: false);
            together.SignalAndWait();
            _ = part.Touch(ours.Address, part.Count, pinned: false);
        }))];
        foreach (Thread toucher in touchers)
        {
            toucher.Start();
        }

        together.SignalAndWait();
        long start = Stopwatch.GetTimestamp();
        foreach (Thread toucher in touchers)
        {
            toucher.Join();
        }

        double rate = each * threads / Stopwatch.GetElapsedTime(start).TotalSeconds;
        Distribution latency = Distribution.Of([.. parts.SelectMany(p => p.Samples.ToArray())]);
        Array.ForEach(parts, p => p.Dispose());
        return (rate, latency);
    }

    private static double PlaceAll(ServedDestination ours, nuint page)
    {
        long start = Stopwatch.GetTimestamp();
        long placed = 0;
        foreach (RamBlock block in ours.Destination.Blocks.Blocks)
        {
            for (long at = 0; at < block.UsedLength; at += PageBytes, placed++)
            {
                _ = ours.Placer.Place(block, at, page, PageBytes);
            }
        }

        return Stopwatch.GetElapsedTime(start).TotalMicroseconds / placed;
    }
}
