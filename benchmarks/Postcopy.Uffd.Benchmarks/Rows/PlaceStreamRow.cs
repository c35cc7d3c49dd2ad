using System.Diagnostics;
using Postcopy.Uffd.Benchmarks.Compare;
using Postcopy.Uffd.Benchmarks.Interop;
using Postcopy.Uffd.Benchmarks.Lab;

namespace Postcopy.Uffd.Benchmarks.Rows;

/// <summary>
/// A whole guest as QEMU sends it, from the first byte of the stream to the last page placed: QemuIncoming with bitmaps
/// and blocktime on, against a C program that reads the same bytes and places page by page.
/// </summary>
internal static class PlaceStreamRow
{
    private static readonly PlacerOptions s_copied = new() { Stretches = StretchPlacement.Off };

    internal static IEnumerable<RowResult> Stream(ComparisonOptions options)
    {
        foreach (bool busy in new[] { false, true })
        {
            yield return Pair($"place-stream{Suffix(busy)}", $"1 GiB of pages as wire records, COPY in runs, vs C page by page{Load(busy)}",
                busy ? Goal.Reported : Goal.AtMost(0.65), options, zero: false, busy, s_copied);
        }

        foreach (bool busy in new[] { false, true })
        {
            yield return Pair($"place-stream.huge{Suffix(busy)}", $"the same, our default: MOVE of huge pages{Load(busy)}",
                busy ? Goal.Reported : Goal.AtMost(0.40), options, zero: false, busy, new PlacerOptions());
        }
    }

    internal static IEnumerable<RowResult> Zero(ComparisonOptions options)
    {
        foreach (bool busy in new[] { false, true })
        {
            yield return Pair($"place-zero{Suffix(busy)}", $"1 GiB of zero pages as wire records, vs C page by page{Load(busy)}",
                busy ? Goal.Reported : Goal.AtMost(0.16), options, zero: true, busy, new PlacerOptions());
        }

        foreach (bool busy in new[] { false, true })
        {
            yield return Pair($"place-zero.huge{Suffix(busy)}", $"the same with the option HugeZeroPages: MOVE of the huge zero page{Load(busy)}",
                busy ? Goal.Reported : Goal.AtMost(0.03), options, zero: true, busy, new PlacerOptions { HugeZeroPages = true });
        }
    }

    private static string Suffix(bool busy) => busy ? ".busy" : "";

    private static string Load(bool busy) => busy ? "; a vCPU thread computes" : "";

    private static RowResult Pair(string name, string what, Goal goal, ComparisonOptions options, bool zero, bool busy, PlacerOptions placer)
    {
        long bytes = options.Size(1L << 30, 8 << 20);
        WarmMemory.Touch((bytes * 2) + (bytes / 2));
        using RecordedStream stream = RecordedStream.Record(bytes, zero);
        using BusyThreads? load = busy ? new BusyThreads(1) : null;
        PlacementStatistics statistics = new();
        long resident = 0;
        RowResult result = Pairing.Run(name, what, goal, options.Rounds,
            () =>
            {
                long before = Environment.WorkingSet;
                using ReceivedGuest guest = new(stream, placer);
                statistics = guest.Placement;
                resident = Environment.WorkingSet - before;
                return new Sample(guest.Time.TotalNanoseconds);
            },
            () =>
            {
                long start = Stopwatch.GetTimestamp();
                int error = NativeLab.lab_stream_place((int)stream.File.DangerousGetHandle());
                return error == 0
                    ? new Sample(Stopwatch.GetElapsedTime(start).TotalNanoseconds)
                    : throw new LabException($"The C baseline could not place the stream: errno {-error}.");
            });
        return result with
        {
            Figures = new Dictionary<string, double>
            {
                ["ourNanosecondsPerPage"] = result.Ours!.Value.Median / (bytes >> 12),
                ["itsNanosecondsPerPage"] = result.Baseline!.Value.Median / (bytes >> 12),
                ["ourIoctls"] = statistics.Operations,
                ["ourHugePageShare"] = (double)statistics.StretchesMoved * PostcopyPlacer.StretchBytes / bytes,
                ["ourHugeZeroShare"] = (double)statistics.ZeroStretchesMoved * PostcopyPlacer.StretchBytes / bytes,
                ["ourResidentGrowthBytes"] = resident,
            },
        };
    }
}
