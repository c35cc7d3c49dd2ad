using Postcopy.Uffd.Benchmarks.Compare;
using Postcopy.Uffd.Benchmarks.Migrations;

namespace Postcopy.Uffd.Benchmarks.Rows;

/// <summary>
/// How much of a guest is in huge pages when it is complete: of the stretches of 2 MiB that hold anything, and how much
/// memory the zeros in them took that a placement page by page would not have taken.
/// </summary>
internal static class ThpRow
{
    private const int ZeroPagesOfEach = 8;
    private const int Touchers = 4;
    private const long StretchBytes = PostcopyPlacer.StretchBytes;

    internal static IEnumerable<RowResult> Measure(ComparisonOptions options)
    {
        const string What = "share of the guest's non-zero 2 MiB stretches that are huge pages after completion";
        if (!QemuMachine.IsInstalled)
        {
            yield return RowResult.NotMeasured("thp", What, QemuMachine.WhyNot);
            yield break;
        }

        using GuestContent content = new(options.Size(1L << 30, 64 << 20), ZeroPagesOfEach);
        string[] touchers = ["--touchers", $"{Touchers}"];
        yield return Row("thp", $"{What}: undisturbed", Goal.NotLess(0.98), content, options, () => LineDestination.Ours());
        yield return Row("thp.touched", $"the same with {Touchers} threads touching everything in random orders", Goal.NotLess(0.9), content, options, () => LineDestination.Ours(touchers));
        yield return Row("thp.whole", "the same touchers, StretchPlacement.WholeOnFault", Goal.NotLess(0.9), content, options, () => LineDestination.Ours([.. touchers, "--whole"]));
        yield return Row("thp.collapsed", "the same, and CollapseAsync afterwards", Goal.NotLess(0.9), content, options, () => LineDestination.Ours([.. touchers, "--collapse"]));
        yield return Row("thp.qemu", "the same, QEMU's own destination, undisturbed", Goal.Reported, content, options, () => new QemuDestination(content.Bytes));
    }

    private static RowResult Row(string name, string what, Goal goal, GuestContent content, ComparisonOptions options, Func<IDestinationProcess> start)
    {
        MigrationRun[] runs = [.. Enumerable.Range(0, options.Rounds).Select(_ => MigrationRun.Measure(content, start))];
        double contentBytes = (content.NonZeroStretches * (double)StretchBytes) - (content.ZeroPages * (double)PageSize.Host.Bytes);
        Interval share = Interval.Of([.. runs.Select(r => (double)r.Memory.Huge / (content.NonZeroStretches * StretchBytes))]);
        Dictionary<string, double> figures = new()
        {
            ["addedMiB"] = Statistics.Median(runs.Select(r => (r.Memory.Resident - contentBytes) / (1 << 20))),
            ["zeroMiBBetween"] = content.ZeroPages * (double)PageSize.Host.Bytes / (1 << 20),
            ["wallMilliseconds"] = Statistics.Median(runs.Select(r => r.Wall.TotalMilliseconds)),
        };
        foreach (string figure in runs[0].Figures.Keys.Where(k => k.StartsWith("stretches", StringComparison.Ordinal) || k.Contains("ollapse", StringComparison.Ordinal)))
        {
            figures[figure] = Statistics.Median(runs.Select(r => r.Figures[figure]));
        }

        return new RowResult(name, what, goal) { Ratio = share, Ours = share, Unit = "", Figures = figures };
    }
}
