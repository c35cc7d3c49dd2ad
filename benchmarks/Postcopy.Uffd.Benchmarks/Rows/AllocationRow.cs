using Postcopy.Uffd.Benchmarks.Compare;
using Postcopy.Uffd.Benchmarks.Lab;

namespace Postcopy.Uffd.Benchmarks.Rows;

/// <summary>Bytes that the managed heap gives out for a million faults and a million placed pages: none.</summary>
internal static class AllocationRow
{
    private const int PageBytes = 4096;

    internal static IEnumerable<RowResult> Measure(ComparisonOptions options)
    {
        long wanted = options.Size(1_000_000, 2_000);
        using NativeBuffer<byte> page = new(PageBytes);
        using ServedDestination ours = new(options.Size(128 << 20, 1 << 20), page.Address, countAllocations: true);
        using TouchOrder order = new(ours.Bytes / PageBytes);
        yield return Faults(ours, order, wanted);
        yield return Placements(ours, page, wanted);
    }

    private static RowResult Faults(ServedDestination ours, TouchOrder order, long wanted)
    {
        // Both on one processor: they hand over soonest so, and a million faults take seconds.
        using Affinity.Restore restore = Affinity.PinCaller(Affinity.Handler);
        _ = order.Touch(ours.Address, order.Count, pinned: false);
        ours.Discard();
        long faults = 0;
        long ofThread = ours.AllocatedOnFaultThread;
        long ofProcess = 0;
        while (faults < wanted)
        {
            long before = GC.GetTotalAllocatedBytes(precise: true);
            _ = order.Touch(ours.Address, order.Count, pinned: false);
            ofProcess += GC.GetTotalAllocatedBytes(precise: true) - before;
            faults += order.Count;
            ours.Discard();
        }

        ofThread = ours.AllocatedOnFaultThread - ofThread;
        return RowResult.Absolute("alloc", "bytes allocated by the fault thread per fault, request and placement included", "B", 0, [(double)ofThread / faults]) with
        {
            Figures = new Dictionary<string, double> { ["faults"] = faults, ["bytesOfTheFaultThread"] = ofThread, ["bytesOfTheWholeProcess"] = ofProcess },
        };
    }

    private static RowResult Placements(ServedDestination ours, NativeBuffer<byte> page, long wanted)
    {
        long placed = 0;
        long allocated = 0;
        while (placed < wanted)
        {
            long before = GC.GetAllocatedBytesForCurrentThread();
            for (long at = 0; at < ours.Bytes; at += PageBytes, placed++)
            {
                _ = ours.Placer.Place(ours.Block, at, page.Address, PageBytes);
            }

            allocated += GC.GetAllocatedBytesForCurrentThread() - before;
            ours.Discard();
        }

        return RowResult.Absolute("alloc.placement", "bytes allocated per placed page that nobody waits for", "B", 0, [(double)allocated / placed]) with
        {
            Figures = new Dictionary<string, double> { ["pages"] = placed, ["bytes"] = allocated },
        };
    }
}
