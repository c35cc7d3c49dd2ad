using System.Diagnostics;
using Postcopy.Uffd.Benchmarks.Compare;
using Postcopy.Uffd.Benchmarks.Lab;

namespace Postcopy.Uffd.Benchmarks.Rows;

/// <summary>One page after the other, bitmap and blocktime on, against the bare ioctl.</summary>
internal static class PlacePageRow
{
    internal static IEnumerable<RowResult> Measure(ComparisonOptions options)
    {
        yield return Pair(options, busy: false);
        yield return Pair(options, busy: true);
    }

    private static RowResult Pair(ComparisonOptions options, bool busy)
    {
        const int PageBytes = 4096;
        long bytes = options.Size(256 << 20, 1 << 20);
        long sourceBytes = Math.Min(bytes, 8 << 20);
        using NativeBuffer<byte> source = new(sourceBytes);
        using ServedDestination ours = new(bytes, source.Address);
        using BaselineRegion baseline = new(bytes);
        using BusyThreads? load = busy ? new BusyThreads(1) : null;
        return Pairing.Run(
            busy ? "place-page.busy" : "place-page",
            $"one page by one ioctl, bitmap and blocktime on, vs the bare ioctl in C{(busy ? "; a vCPU thread computes" : "")} (per page)",
            busy ? Goal.Reported : Goal.AtMost(1.10),
            options.Rounds,
            () =>
            {
                long start = Stopwatch.GetTimestamp();
                for (long at = 0; at < bytes; at += PageBytes)
                {
                    PlaceResult result = ours.Placer.Place(ours.Block, at, source.Address + (nuint)(at & (sourceBytes - 1)), PageBytes);
                    if (!result.IsReceived)
                    {
                        throw new LabException($"A page could not be placed: {result}.");
                    }
                }

                return After(start, bytes / PageBytes, ours.Discard);
            },
            () =>
            {
                long start = Stopwatch.GetTimestamp();
                baseline.CopyAll(source.Address, sourceBytes);
                return After(start, bytes / PageBytes, baseline.Discard);
            });
    }

    private static Sample After(long start, long pages, Action discard)
    {
        double nanoseconds = Stopwatch.GetElapsedTime(start).TotalNanoseconds / pages;
        discard();
        return new Sample(nanoseconds);
    }
}
