using Postcopy.Uffd.Benchmarks.Compare;
using Postcopy.Uffd.Benchmarks.Lab;
using Postcopy.Uffd.Benchmarks.Migrations;

namespace Postcopy.Uffd.Benchmarks.Rows;

/// <summary>
/// The stalls of a thread that touches pages in random order behind QEMU's stream at full speed: what a guest feels of
/// the whole way there and back.
/// </summary>
internal static class DemandRow
{
    internal const int Touches = 2000;

    internal static IEnumerable<RowResult> Measure(ComparisonOptions options)
    {
        const string What = "sum of the stalls of the first 2000 random touches behind QEMU's stream";
        if (!QemuMachine.IsInstalled)
        {
            yield return RowResult.NotMeasured("demand", What, QemuMachine.WhyNot);
            yield break;
        }

        using GuestContent content = new(options.Size(1L << 30, 64 << 20));
        using TouchFile touches = new(content.Bytes, Touches);
        string[] order = ["--order", touches.Path, "--touches", $"{touches.Count}"];
        IReadOnlyList<MigrationRun[]> runs = Runs(newest: false);
        yield return Row("demand", $"{What}, vs C: one thread, COPY page by page, default buffers", 0.5, runs, ours: 0);
        yield return Row("demand.preempt", "the same, ours with the urgent channel, vs C without", 0.3, runs, ours: 1);

        const string WhatNewest = "the two again, the stream of the newest QEMU, whose return path's thread sends urgent pages itself (since 8.0)";
        if (options.Quick || !QemuMachine.HasNewest)
        {
            yield return RowResult.NotMeasured("demand.newest", WhatNewest, options.Quick ? "a quick run" : QemuMachine.WhyNotNewest);
            yield break;
        }

        runs = Runs(newest: true);
        yield return Row("demand.newest", WhatNewest, 0.5, runs, ours: 0);
        yield return Row("demand.newest.preempt", "the same, ours with the urgent channel, vs C without", 0.3, runs, ours: 1);

        IReadOnlyList<MigrationRun[]> Runs(bool newest) => Pairing.Rounds(options.Rounds,
            () => MigrationRun.Measure(content, () => LineDestination.Ours(order), newest: newest),
            () => MigrationRun.Measure(content, () => LineDestination.Ours([.. order, "--preempt"]), preempt: true, newest),
            () => MigrationRun.Measure(content, () => LineDestination.Baseline(touches), newest: newest));
    }

    private static RowResult Row(string name, string what, double goal, IReadOnlyList<MigrationRun[]> runs, int ours)
    {
        RowResult result = Pairing.Judge(name, what, Goal.AtMost(goal), [.. runs.Select(round => Array.ConvertAll<MigrationRun, Sample>([round[ours], round[2], round[3]], Stalls))]);
        return result with
        {
            Figures = new Dictionary<string, double>
            {
                ["ourMicrosecondsPerRequest"] = Median(runs, ours, PerRequest),
                ["itsMicrosecondsPerRequest"] = Median(runs, 2, PerRequest),
                ["ourRequests"] = Median(runs, ours, r => r.Figures["requests"]),
                ["itsRequests"] = Median(runs, 2, r => r.Figures["requests"]),
                ["ourWallMilliseconds"] = Median(runs, ours, r => r.Wall.TotalMilliseconds),
                ["itsWallMilliseconds"] = Median(runs, 2, r => r.Wall.TotalMilliseconds),
            },
            Note = "while one thread only touches, the sum ends with the stream: what is faster touches more while it lasts",
        };
    }

    private static Sample Stalls(MigrationRun run) => new(run.Stalls.Sum(s => (double)s));

    private static double PerRequest(MigrationRun run) => run.Stalls.Sum(s => (double)s) / run.Figures["requests"] / 1000;

    private static double Median(IReadOnlyList<MigrationRun[]> runs, int side, Func<MigrationRun, double> value) =>
        Statistics.Median(runs.Select(r => value(r[side])));
}
