using System.Diagnostics;
using Postcopy.Uffd.Benchmarks.Compare;
using Postcopy.Uffd.Benchmarks.Interop;
using Postcopy.Uffd.Benchmarks.Lab;

namespace Postcopy.Uffd.Benchmarks.Rows;

/// <summary>What a guest gains from huge pages: a loop over its memory after the migration, against pages placed as QEMU does.</summary>
internal static class GuestSpeedRow
{
    private const int Passes = 4;

    internal static IEnumerable<RowResult> Measure(ComparisonOptions options)
    {
        long bytes = options.Size(1L << 30, 8 << 20);
        using ReceivedGuest ours = Receive(bytes);
        using BaselineRegion baseline = new(bytes);
        using NativeBuffer<byte> source = new(1 << 20);
        baseline.CopyAll(source.Address, source.Count);
        using TouchOrder order = new(bytes >> 12);
        RowResult result = Pairing.Run("guest-speed", "reading and writing a word of random pages after completion, vs pages placed one by one (per access)",
            Goal.Reported, options.Rounds, () => Walk(ours.Ram.HostAddress, bytes, order), () => Walk(baseline.Address, bytes, order));
        yield return result with
        {
            Figures = new Dictionary<string, double> { ["ourHugePageShare"] = (double)ours.Placement.StretchesMoved * PostcopyPlacer.StretchBytes / bytes },
        };
    }

    private static ReceivedGuest Receive(long bytes)
    {
        WarmMemory.Touch(bytes);
        using RecordedStream stream = RecordedStream.Record(bytes, zero: false);
        return new ReceivedGuest(stream, new PlacerOptions());
    }

    private static unsafe Sample Walk(nuint address, long bytes, TouchOrder order)
    {
        using Affinity.Restore restore = Affinity.PinCaller(Affinity.Toucher);
        long start = Stopwatch.GetTimestamp();
        for (int i = 0; i < Passes; i++)
        {
            _ = NativeLab.lab_walk(address, (ulong)bytes, order.Pages, order.Count);
        }

        return new Sample(Stopwatch.GetElapsedTime(start).TotalNanoseconds / Passes / order.Count);
    }
}
