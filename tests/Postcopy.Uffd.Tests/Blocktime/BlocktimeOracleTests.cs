using System.Globalization;
using CsCheck;

namespace Postcopy.Uffd.Tests.Blocktime;

/// <summary>
/// Random sequences with a settable clock, equal to the brute-force oracle to the nanosecond.
/// </summary>
public sealed class BlocktimeOracleTests
{
    // POSTCOPY_ORACLE: how many times as many sequences.
    private static readonly int s_times =
        int.TryParse(Environment.GetEnvironmentVariable("POSTCOPY_ORACLE"), CultureInfo.InvariantCulture, out int n) ? n : 1;

    private static readonly Gen<(int Seed, int Slots, int Pages, int Lateness, int Events)> s_scripts =
        Gen.Select(Gen.Int, Gen.Int[1, 64], Gen.Int[2, 200], Gen.Int[1, 60], Gen.Int[1, 600]);

    private static readonly Gen<(int Seed, int Slots, int Pages, int Lateness, int Events)> s_fewSlots =
        Gen.Select(Gen.Int, Gen.Int[1, 4], Gen.Int[1, 8], Gen.Int[1, 60], Gen.Int[1, 600]);

    // As likely 1 to 2 as 2049 to 4096.
    private static readonly Gen<(int Seed, int Slots, int Pages, int Lateness, int Events)> s_anySlots =
        Gen.Select(Gen.Int, Gen.Int[0, 11].SelectMany(power => Gen.Int[1 << power, 2 << power]), Gen.Int[1, 3000], Gen.Int[1, 60], Gen.Int[1, 400]);

    [Fact]
    public void RandomSequencesEqualTheOracleToTheNanosecond() =>
        s_scripts.Sample(s => Assert.Null(Run(s, rareEvents: true)), iter: 60 * s_times, threads: 1);

    [Fact]
    public void RandomSequencesOfOneTo4096SlotsEqualTheOracleToTheNanosecond() =>
        s_anySlots.Sample(s => Assert.Null(Run(s, rareEvents: true)), iter: 24 * s_times, threads: 1);

    [Fact]
    public void RandomSequencesOfFewSlotsEqualTheOracleToTheNanosecond() =>
        s_fewSlots.Sample(s => Assert.Null(Run(s, rareEvents: true)), iter: 500 * s_times, threads: 1);

    [Fact]
    public void SequencesLongerThanTheRingsEqualTheOracleToTheNanosecondWhileNothingIsAssumed() =>
        s_fewSlots.Sample(
            s =>
            {
                BlocktimeScript script = new(s.Seed, s.Slots, s.Pages, s.Lateness, 8);
                script.Play(s.Events, rareEvents: false);
                script.CloseAll();
                bool exact = script.Tracker.Snapshot(0).ErrorBoundNanoseconds == 0 && script.Tracker.Snapshot(0).Untracked == 0;
                Assert.Null(script.Compare(exact));
                script.Tracker.AssertNobodyWaits();
            },
            iter: 500 * s_times,
            threads: 1);

    [Fact]
    public void ReadingsInBetweenNeverGoDown() =>
        s_fewSlots.Sample(
            s =>
            {
                BlocktimeScript script = new(s.Seed, s.Slots, s.Pages, s.Lateness, 64);
                for (int i = 0; i < s.Events; i += 7)
                {
                    script.Play(7, rareEvents: true);
                    Assert.Null(script.Peek());
                }
            },
            iter: 300 * s_times,
            threads: 1);

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    public void FourThousandNinetySixSlotsEqualTheOracle(int seed)
    {
        BlocktimeScript script = new(seed, BlocktimeScript.MostSlots, 3000, 30, 16);
        script.Play(1200, rareEvents: true);
        Assert.Null(script.Compare(exact: true));
        script.CloseAll();
        script.Tracker.AssertNobodyWaits();
    }

    private static string? Run((int Seed, int Slots, int Pages, int Lateness, int Events) s, bool rareEvents)
    {
        BlocktimeScript open = new(s.Seed, s.Slots, s.Pages, s.Lateness, 1024);
        open.Play(s.Events, rareEvents);
        if (open.Compare(exact: true) is string wrong)
        {
            return "with stalls open: " + wrong;
        }

        BlocktimeScript closed = new(s.Seed, s.Slots, s.Pages, s.Lateness, 1024);
        closed.Play(s.Events, rareEvents);
        closed.CloseAll();
        closed.Tracker.AssertNobodyWaits();
        return closed.Compare(exact: true);
    }
}
