using Postcopy.Uffd.Benchmarks.Compare;
using Postcopy.Uffd.Benchmarks.Migrations;

namespace Postcopy.Uffd.Benchmarks.Rows;

/// <summary>
/// A whole guest from the same stopped QEMU source, by postcopy: our destination against QEMU's own, each in a fresh
/// process, so that what the JIT compiler costs is ours to pay. Wall and processor time come from the same migrations.
/// </summary>
internal static class QemuRows
{
    private static readonly Dictionary<ComparisonOptions, IReadOnlyList<MigrationRun[]>> s_runs = [];

    internal static IEnumerable<RowResult> Wall(ComparisonOptions options) =>
        Row("qemu-wall", "1 GiB from a stopped QEMU by postcopy, start to end as the source counts it, vs QEMU's destination", Goal.AtMost(1.0), options, r => r.Wall);

    internal static IEnumerable<RowResult> Cpu(ComparisonOptions options) =>
        Row("qemu-cpu", "the same: processor time of the destination's process", Goal.AtMost(0.6), options, r => r.Cpu);

    private static IEnumerable<RowResult> Row(string name, string what, Goal goal, ComparisonOptions options, Func<MigrationRun, TimeSpan> value)
    {
        if (!QemuMachine.IsInstalled)
        {
            yield return RowResult.NotMeasured(name, what, QemuMachine.WhyNot);
            yield break;
        }

        IReadOnlyList<MigrationRun[]> runs = Runs(options);
        MigrationRun[] ours = [.. runs.Select(r => r[0])];
        yield return Pairing.Judge(name, what, goal, [.. runs.Select(round => Array.ConvertAll(round, r => new Sample(value(r).TotalNanoseconds)))]) with
        {
            Figures = new Dictionary<string, double>
            {
                ["ourHugePageShare"] = Statistics.Median(ours.Select(r => (double)r.Memory.Huge / r.Memory.Resident)),
                ["ourIoctls"] = Statistics.Median(ours.Select(r => r.Figures["ioctls"])),
                ["ourGcPauseMilliseconds"] = Statistics.Median(ours.Select(r => r.Figures["gcPauseMilliseconds"])),
            },
        };
    }

    private static IReadOnlyList<MigrationRun[]> Runs(ComparisonOptions options)
    {
        if (!s_runs.TryGetValue(options, out IReadOnlyList<MigrationRun[]>? runs))
        {
            using GuestContent content = new(options.Size(1L << 30, 64 << 20));
            s_runs[options] = runs = Pairing.Rounds(options.Rounds,
                () => MigrationRun.Measure(content, () => LineDestination.Ours()),
                () => MigrationRun.Measure(content, () => new QemuDestination(content.Bytes)));
        }

        return runs;
    }
}
