using Postcopy.Uffd.Qemu;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Breaking.Tests;

/// <summary>A memory cgroup that is too small (hazard H49): the plan says so, and whoever goes on loses the destination, not the source.</summary>
public sealed class MemoryLimitTests(ITestOutputHelper output)
{
    private const int Limit = 300_000;
    private const long Small = 48 << 20;

    [Theory(Timeout = Limit)]
    [InlineData(true)]
    [InlineData(false)]
    public async Task UnderAnOomKillTheSourceStaysIntact(bool beforeTheSwitch) => await Task.Run(async () =>
    {
        Requires.Userfaultfd();
        using MemoryCgroup group = MemoryCgroup.Create(Small);
        using HeldMemory memory = new(new SourceRamBlock("pc.ram", ReceivingChild.Ram));
        DirectoryInfo folder = Directory.CreateTempSubdirectory("postcopy-oom-");
        try
        {
            using ChildProcess doomed = Start(folder, "a", group);
            Assert.Equal("plan: False", doomed.ReadLine());
            await using QemuSource source = new(memory, new QemuSourceOptions { PrecopyPasses = beforeTheSwitch ? 1 : 0 });
            QemuSourceState state = await source.RunAsync(ReceivingChild.Connect(Path.Combine(folder.FullName, "a"))).WaitAsync(Receiver.Budget);
            Assert.Equal(128 + TestLibc.SIGKILL, doomed.WaitForExit());
            output.WriteLine($"{state}: {source.Error?.Message}");
            Assert.Equal(beforeTheSwitch ? QemuSourceState.Failed : QemuSourceState.PostcopyPaused, state);
            Assert.Equal(!beforeTheSwitch, source.IsPastPointOfNoReturn);
            Assert.True(memory.IsIntact());

            // Before the switch the guest goes on here, and a host with room takes it whole.
            using ChildProcess roomy = Start(folder, "b", null);
            Assert.Equal("plan: True", roomy.ReadLine());
            await using QemuSource again = new(memory, new QemuSourceOptions { PrecopyPasses = beforeTheSwitch ? 1 : 0 });
            Assert.Equal(QemuSourceState.Completed, await again.RunAsync(ReceivingChild.Connect(Path.Combine(folder.FullName, "b"))).WaitAsync(Receiver.Budget));
            Assert.Equal("whole", roomy.ReadLine());
            roomy.WaitForSuccess();
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    });

    /// <summary>With version 1's oom_control nobody is killed: COPY fails with ENOMEM, and placing goes on once there is room.</summary>
    [Fact(Timeout = Limit)]
    public async Task WithoutTheKillPlacingWaitsForRoom() => await Task.Run(async () =>
    {
        Requires.Userfaultfd();
        using MemoryCgroup group = MemoryCgroup.Create(Small);
        if (!group.TryForbidKilling())
        {
            output.WriteLine("There is no memory.oom_control: version 2 of cgroups always kills, which UnderAnOomKillTheSourceStaysIntact shows.");
            return;
        }

        using HeldMemory memory = new(new SourceRamBlock("pc.ram", ReceivingChild.Ram));
        DirectoryInfo folder = Directory.CreateTempSubdirectory("postcopy-oom-");
        try
        {
            using ChildProcess child = Start(folder, "a", group);
            Assert.Equal("plan: False", child.ReadLine());
            await using QemuSource source = new(memory);
            Task<QemuSourceState> sending = source.RunAsync(ReceivingChild.Connect(Path.Combine(folder.FullName, "a")));
            Deadline.Until(() => group.Failures > 0, "the limit to be reached");
            Assert.False(Deadline.Reached(() => child.HasExited || sending.IsCompleted, TimeSpan.FromSeconds(1)), "It did not wait for room.");
            group.SetLimit(4 * ReceivingChild.Ram);
            Assert.Equal("whole", child.ReadLine());
            child.WaitForSuccess();
            QemuSourceState end = await sending.WaitAsync(Receiver.Budget);
            Assert.True(end == QemuSourceState.Completed, $"{end}: {source.Error}");
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    });

    private static ChildProcess Start(DirectoryInfo folder, string socket, MemoryCgroup? group)
    {
        ChildProcess child = ChildProcess.Start(ReceivingChild.Receive, Receiver.Budget + Receiver.Budget, Path.Combine(folder.FullName, socket));
        Assert.Equal("ready", child.ReadLine());
        group?.Add(child);
        child.WriteLine("go");
        return child;
    }
}
