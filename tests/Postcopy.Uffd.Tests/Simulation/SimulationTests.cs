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
    public async Task EverybodyIsServedWithTheRightBytesInEverySchedule(string name, SimulatedHost host)
    {
        int count = Number("POSTCOPY_SCHEDULES", 150);
        int start = Number("POSTCOPY_SEED", 1);
        await Task.Run(() =>
        {
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
        });
    }

    private static int Number(string variable, int otherwise) =>
        int.TryParse(Environment.GetEnvironmentVariable(variable), out int n) ? n : otherwise;
}
