using System.Diagnostics;
using System.Globalization;

namespace Postcopy.Mutation;

/// <summary>
/// Small changes all over a folder of the product, as Stryker makes them; what no test notices is printed. A sample by
/// default, because each mutant costs seconds; the sample is the same for the same seed and sources.
/// </summary>
internal static class OperatorCheck
{
    private sealed record Area(string Product, string Folder, string Tests, string[] Fast, string[] Slow);

    private static readonly Dictionary<string, Area> s_areas = new()
    {
        ["Blocktime"] = new("Postcopy.Uffd", "Blocktime", "Postcopy.Uffd.Tests",
            ["GoldenReportTests", "BlocktimeCasesTests", "BlocktimeTrackerTests", "BlocktimeReportTests", "TimelineTests"],
            ["BlocktimeOracleTests", "BlocktimeInterleavingTests"]),
        ["Ram"] = new("Postcopy.Uffd", "Ram", "Postcopy.Uffd.Tests",
            ["PageBitmapTests", "RamBlockRegistryTests", "PresentLeaseTests", "FaultReaderTests", "GuestMemoryTests", "ClaimTests", "BookkeepingTests"],
            ["PlacerTests", "DestinationPipelineTests", "MemoryEventTests", "HandoffTests", "HandoffMessageTests", "SplitMappingTests"]),
        ["Placement"] = new("Postcopy.Uffd", "Placement", "Postcopy.Uffd.Tests",
            ["PlacerTests", "StagingWindowTests", "StretchTests", "StretchSafetyTests", "ClaimTests", "PageRunTests", "MirrorTests", "SplitMappingTests", "StagedFaultTests", "BookkeepingTests", "FaultReaderTests"],
            ["HugetlbPlacerTests", "MemoryPolicyTests", "StretchForkTests", "PoisonPlacementTests", "MetricsTests", "ProtocolInterleavingTests",
                "SimulationTests.EverybodyIsServedWithTheRightBytesInEverySchedule"]),
        ["Wire"] = new("Postcopy.Uffd.Qemu", "Wire", "Postcopy.Uffd.Qemu.Tests",
            ["GoldenStreamTests", "MalformedStreamTests", "LimitTests", "XbzrleDeltaTests", "ResumedSequenceTests", "PageRunTests", "HeadChecksumTests", "ReaderPartsTests"],
            ["ZlibInflaterTests", "TruncationTests", "MutationTests", "AllocationTests", "DevicePackageTests", "ChecksumTests", "HandWrittenStreamTests",
                "QemuSourceTests", "StretchStreamTests"]),
    };

    /// <returns>0 when at least 80 of 100 mutants of each area are noticed.</returns>
    internal static int Run(string root, string[] arguments)
    {
        int sample = Number(arguments, "--sample", 60);
        int seed = Number(arguments, "--seed", 1);
        int seconds = Number(arguments, "--seconds", 3600);
        string[] names = [.. arguments.Where((a, i) => s_areas.ContainsKey(a))];
        bool enough = true;
        using Bench bench = new(root);
        foreach (string name in names.Length > 0 ? names : [.. s_areas.Keys])
        {
            enough &= RunArea(bench, name, s_areas[name], sample, seed, TimeSpan.FromSeconds(seconds));
        }

        return enough ? 0 : 1;
    }

    private static bool RunArea(Bench bench, string name, Area area, int sample, int seed, TimeSpan limit)
    {
        Product product = bench.Product(area.Product);
        TestRun tests = bench.Tests(area.Tests);

        // A mutant that needs five times as long as the unchanged product, and ten seconds more, hangs.
        TimeSpan fast = Patience(bench, area.Tests, area.Fast);
        TimeSpan slow = Patience(bench, area.Tests, area.Slow);
        Mutant[] all = [.. product.Files(area.Folder).OrderBy(f => f.FilePath, StringComparer.Ordinal).SelectMany(Mutator.Of)];
        Mutant[] order = [.. all];
        new Random(seed).Shuffle(order);
        int noticed = 0, survived = 0, stillborn = 0;
        Stopwatch clock = Stopwatch.StartNew();
        foreach (Mutant mutant in order)
        {
            if (noticed + survived == sample || clock.Elapsed > limit)
            {
                break;
            }

            if (tests.Exchange(product, mutant.File, mutant.Mutated) is not null)
            {
                stillborn++;
                continue;
            }

            bool dead = tests.Run(area.Fast, fast).Verdict is not Verdict.Passed || tests.Run(area.Slow, slow).Verdict is not Verdict.Passed;
            noticed += dead ? 1 : 0;
            survived += dead ? 0 : 1;
            if (!dead)
            {
                Console.WriteLine($"survivor: {Path.GetFileName(mutant.File.FilePath)}:{mutant.Line}: {mutant.Kind}: {mutant.Original}");
            }
        }

        _ = product.Emit(tests.Folder);
        int tried = noticed + survived;
        double score = tried == 0 ? 0 : 100.0 * noticed / tried;
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture,
            $"{name}: {noticed} of {tried} mutants noticed, {score:0.0} %; {tried} tried of {all.Length}, {stillborn} did not compile; seed {seed}, {clock.Elapsed.TotalSeconds:0} s"));
        return score >= 80;
    }

    private static TimeSpan Patience(Bench bench, string project, string[] classes) =>
        TimeSpan.FromSeconds(10 + (5 * bench.RequireGreen(project, classes)));

    private static int Number(string[] arguments, string name, int otherwise)
    {
        int at = Array.IndexOf(arguments, name);
        return at < 0 ? otherwise : at + 1 < arguments.Length && int.TryParse(arguments[at + 1], CultureInfo.InvariantCulture, out int n)
            ? n : throw new MutationException($"{name} needs a number.");
    }
}
