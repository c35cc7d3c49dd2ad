using Postcopy.Uffd.Benchmarks.Compare;
using Postcopy.Uffd.Benchmarks.Lab;

namespace Postcopy.Uffd.Benchmarks.Rows;

/// <summary>Fault to resume while the machine or the runtime has other work.</summary>
internal static class LoadRows
{
    private const int BusyThreadCount = 8;
    private const int Fifo = 10;

    /// <summary>More busy threads than processors: the fault thread waits for its turn like everybody.</summary>
    internal static IEnumerable<RowResult> Contended(ComparisonOptions options)
    {
        using BusyThreads load = new(BusyThreadCount);
        yield return Contended("fault-contended", $"fault to resume beside {BusyThreadCount} busy threads, vs C", options, new FaultReaderOptions());
        yield return Contended("fault-contended.fifo", $"the same, our fault thread with FifoPriority = {Fifo}, vs C without", options, new FaultReaderOptions { FifoPriority = Fifo });
    }

    /// <summary>p99 beside a thread that keeps the garbage collector busy, against the same without it.</summary>
    internal static IEnumerable<RowResult> GarbageCollection(ComparisonOptions options)
    {
        long bytes = options.Size(32 << 20, 1 << 20);
        using NativeBuffer<byte> page = new(PageSize.Host.Bytes);
        using TouchOrder order = new(bytes >> 12);
        using ServedDestination ours = new(bytes, page.Address);
        double collections = 0;
        double paused = 0;
        double rate = 0;
        RowResult result = Pairing.Run("gc-pressure", "fault to resume p99 while another thread allocates 1 GB/s, vs the same without", Goal.Reported, options.Rounds,
            () =>
            {
                using Allocator allocator = new();
                Sample sample = Tail(ours, order);
                (collections, paused, rate) = (allocator.CollectionsSinceStart, allocator.PausedSinceStart.TotalMilliseconds, allocator.GigabytesPerSecond);
                return sample;
            },
            () => Tail(ours, order));
        yield return result with
        {
            Figures = new Dictionary<string, double> { ["collectionsInARound"] = collections, ["pausedMillisecondsInARound"] = paused, ["gigabytesPerSecond"] = rate },
            Note = $"the garbage collector: {(System.Runtime.GCSettings.IsServerGC ? "server" : "workstation")}, {System.Runtime.GCSettings.LatencyMode}",
        };
    }

    private static Sample Tail(ServedDestination ours, TouchOrder order)
    {
        Distribution distribution = Distribution.Of(order.Touch(ours.Address, order.Count));
        ours.Discard();
        return new Sample(distribution.P99, distribution);
    }

    private static RowResult Contended(string name, string what, ComparisonOptions options, FaultReaderOptions reader) =>
        FaultRows.Pair(name, what, Goal.Reported, options, reader, spin: false, pinned: false, bytes: options.Size(1 << 20, 64 << 10));
}
