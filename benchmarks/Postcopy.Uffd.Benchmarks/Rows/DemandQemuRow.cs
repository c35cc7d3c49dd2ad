using Postcopy.Uffd.Benchmarks.Compare;
using Postcopy.Uffd.Benchmarks.Migrations;

namespace Postcopy.Uffd.Benchmarks.Rows;

/// <summary>
/// The order of the row demand, read by a guest under QEMU's own destination, against ours with a thread as the guest.
/// Both sources hold the same stopped guest.
/// </summary>
internal static class DemandQemuRow
{
    internal static IEnumerable<RowResult> Measure(ComparisonOptions options)
    {
        foreach (bool preempt in new[] { false, true })
        {
            string name = preempt ? "demand-qemu.preempt" : "demand-qemu";
            string what = $"sum of the stalls of the first {DemandRow.Touches} random touches{(preempt ? ", both with postcopy-preempt" : "")}, vs a guest under QEMU's destination";
            yield return QemuMachine.IsInstalled ? Pair(name, what, options, preempt) : RowResult.NotMeasured(name, what, QemuMachine.WhyNot);
        }
    }

    private static RowResult Pair(string name, string what, ComparisonOptions options, bool preempt)
    {
        using GuestContent content = new(options.Size(1L << 30, 64 << 20));
        using TouchFile touches = new(content.Bytes, DemandRow.Touches);
        using DemandGuest guest = new();
        string[] arguments = ["--order", touches.Path, "--touches", $"{touches.Count}", .. preempt ? ["--preempt"] : Array.Empty<string>()];
        List<double> ourWall = [];
        List<double> itsWall = [];
        RowResult result = Pairing.Run(name, what, Goal.Reported, options.Rounds,
            () =>
            {
                using LineDestination destination = LineDestination.Ours(arguments);
                MigrationRun run = MigrationRun.Measure(destination, () => guest.StartSource(content, touches), content.Bytes, preempt);
                ourWall.Add(run.Wall.TotalMilliseconds);
                return new Sample(run.Stalls.Sum(s => (double)s));
            },
            () =>
            {
                using QemuDestination destination = guest.StartDestination(content.Bytes, preempt);
                MigrationRun run = MigrationRun.Measure(destination, () => guest.StartSource(content, touches), content.Bytes, preempt, () => DemandGuest.LetRun(destination));
                itsWall.Add(run.Wall.TotalMilliseconds);
                return new Sample(guest.SumOfStalls(destination));
            });
        return result with
        {
            Figures = new Dictionary<string, double> { ["ourWallMilliseconds"] = Statistics.Median(ourWall), ["itsWallMilliseconds"] = Statistics.Median(itsWall) },
        };
    }
}
