using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Simulation.Schedules;

/// <summary>
/// The same schedule files on the simulated and on the real kernel. The simulation is worth what it has in common with
/// the kernel: a difference fails here.
/// </summary>
[Collection(HugePagesCollection.Name)]
public sealed class ScheduleTests
{
    public static TheoryData<string> Files => [.. Schedule.Names];

    [Fact]
    public void ThereAreSchedulesForWhatTheKernelIsKnownFor() => Assert.True(Schedule.Names.Count() >= 12);

    [Theory]
    [MemberData(nameof(Files))]
    public void TheSimulatedKernelAnswersAsTheFileSays(string file)
    {
        Schedule schedule = Schedule.Load(file);
        using FakeStage stage = new(schedule);
        Assert.Empty(schedule.Play(stage));
    }

    [Theory(Timeout = 60_000)]
    [MemberData(nameof(Files))]
    public async Task TheRealKernelAnswersAsTheFileSays(string file)
    {
        Schedule schedule = Schedule.Load(file);
        Requires.Userfaultfd(schedule.Features | UffdFeatures.ThreadId | UffdFeatures.Poison);
        if (schedule.Kind == "huge")
        {
            HugePages.Require();
        }

        if (schedule.Kind == "foreign" || (schedule.Features & UffdFeatures.EventFork) != 0)
        {
            Requires.Root("Another process's descriptor, or EVENT_FORK");
        }

        Assert.Equal("as the file says", (await Task.Run(() => ChildProcess.Run(PlayOnTheRealKernel, file))).Trim());
    }

    private static void PlayOnTheRealKernel(ChildScenario child)
    {
        // A handler, so that the signal interrupts; without one it is ignored before it reaches the thread.
        using System.Runtime.InteropServices.PosixSignalRegistration handled =
            System.Runtime.InteropServices.PosixSignalRegistration.Create(System.Runtime.InteropServices.PosixSignal.SIGWINCH, c => c.Cancel = true);
        Schedule schedule = Schedule.Load(child.Arguments[0]);
        using RealStage stage = new(schedule);
        IReadOnlyList<string> differences = schedule.Play(stage);
        child.Say(differences.Count == 0 ? "as the file says" : string.Join('\n', differences));
    }
}
