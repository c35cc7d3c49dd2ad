using System.Globalization;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Simulation;

/// <summary>Thousands of schedules; POSTCOPY_SCHEDULES sets how many of each kind, POSTCOPY_SEED where they begin.</summary>
public sealed class SimulationTests
{
    private const int Steps = 250;

    public static TheoryData<string, SimulatedHost> Hosts => new()
    {
        { "anonymous", new SimulatedHost() },
        { "anonymous, events", new SimulatedHost { FollowEvents = true } },
        { "huge", new SimulatedHost { Huge = true } },
        { "huge, events", new SimulatedHost { Huge = true, FollowEvents = true } },
        { "memfd", new SimulatedHost { Shared = true } },
        { "memfd, events", new SimulatedHost { Shared = true, FollowEvents = true } },
        { "memfd with a mirror", new SimulatedHost { Shared = true, Mirror = UffdModes.Missing | UffdModes.Minor } },
        { "memfd with a mirror, events", new SimulatedHost { Shared = true, Mirror = UffdModes.Missing | UffdModes.Minor, FollowEvents = true } },
        { "memfd with a mirror for missing faults", new SimulatedHost { Shared = true, Mirror = UffdModes.Missing } },
        { "shared huge with a mirror", new SimulatedHost { Shared = true, Huge = true, Mirror = UffdModes.Missing | UffdModes.Minor } },
    };

    [Theory(Timeout = 120_000)]
    [MemberData(nameof(Hosts))]
    public Task EverybodyIsServedWithTheRightBytesInEverySchedule(string name, SimulatedHost host) =>
        Task.Run(() => PlayAll(name, host, Number("POSTCOPY_SCHEDULES", 150)));

    [Theory(Timeout = 120_000)]
    [MemberData(nameof(Hosts))]
    public Task NobodyTriesOnWhenTheTargetIsGone(string name, SimulatedHost host) => Task.Run(() =>
    {
        int count = Number("POSTCOPY_SCHEDULES", 150) / 3;
        for (int seed = 1; seed <= count; seed++)
        {
            using Simulation simulation = new(host, seed);
            try
            {
                simulation.PlayUntilExit(Steps / 2);
            }
            catch (Exception e)
            {
                Assert.Fail($"Schedule {seed} on {name}: {e.Message}\n{e.StackTrace}");
            }
        }
    });

    /// <summary>arm64's page sizes: the code asks the host, and this host is made to say so.</summary>
    [Theory(Timeout = 120_000)]
    [InlineData(16)]
    [InlineData(64)]
    public async Task EverybodyIsServedOnHostsWithLargerPages(int kibibytes)
    {
        string told = await Task.Run(() => ChildProcess.Run(PlayWithLargerPages, kibibytes.ToString(CultureInfo.InvariantCulture)));
        Assert.Equal($"pages of {kibibytes} KiB: {Hosts.Count} kinds of memory\n", told);
    }

    private static void PlayWithLargerPages(ChildScenario child)
    {
        PageSize.SimulateHost(new PageSize(long.Parse(child.Arguments[0], CultureInfo.InvariantCulture) << 10));
        int kinds = 0;
        foreach (TheoryDataRow<string, SimulatedHost> row in Hosts)
        {
            // At most so many: a child that says nothing for half a minute is taken for hung.
            PlayAll(row.Data.Item1, row.Data.Item2, Math.Min(100, Number("POSTCOPY_SCHEDULES", 60)));
            kinds++;
        }

        child.Say($"pages of {PageSize.Host}: {kinds} kinds of memory");
    }

    private static void PlayAll(string name, SimulatedHost host, int count)
    {
        int start = Number("POSTCOPY_SEED", 1);
        for (int seed = start; seed < start + count; seed++)
        {
            using Simulation simulation = new(host, seed);
            try
            {
                simulation.Play(Steps);
            }
            catch (Exception e)
            {
                Assert.Fail($"Schedule {seed} on {name}: {e.Message}\n{e.StackTrace}");
            }
        }
    }

    private static int Number(string variable, int otherwise) =>
        int.TryParse(Environment.GetEnvironmentVariable(variable), out int n) ? n : otherwise;
}
