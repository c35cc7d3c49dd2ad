using Postcopy.Uffd;
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

    /// <summary>
    /// With version 1's oom_control nobody is killed: COPY fails with ENOMEM, and placing goes on once there is room. The guest's process
    /// is in the group, who places is not: at the limit also a runtime's own system calls fail.
    /// </summary>
    [Fact(Timeout = Limit)]
    public async Task WithoutTheKillPlacingWaitsForRoom() => await Task.Run(() =>
    {
        const int pages = 64 << 8;
        using MemoryCgroup group = MemoryCgroup.Create(Small);
        if (!group.TryForbidKilling())
        {
            output.WriteLine("There is no memory.oom_control: version 2 of cgroups always kills, which UnderAnOomKillTheSourceStaysIntact shows.");
            return;
        }

        using MemoryHolder guest = MemoryHolder.Start(pages);
        group.Add(guest.ProcessId);
        using GuestMemory shadow = GuestMemory.Allocate(new GuestMemoryOptions { Length = (long)pages * TestPages.Bytes });
        using RamBlockRegistry registry = new();
        using PostcopyPlacer placer = new(new PlacerOptions { Deadline = Receiver.Budget });
        RamBlock block = registry.Add(new RamBlockSpec { Name = "ram", Memory = shadow });
        block.MoveTo(guest.Range.Start);
        block.Attach(guest.Uffd, UffdModes.Missing, UffdOperations.Copy | UffdOperations.Wake);
        Task<bool> placing = Task.Run(() => PlaceAll(placer, block));
        Deadline.Until(() => group.Failures > 0, "the limit to be reached");
        Assert.False(Deadline.Reached(() => placing.IsCompleted, TimeSpan.FromSeconds(1)), "It did not wait for room.");
        Assert.InRange(block.MissingPages, 1, pages - 1);
        group.SetLimit(4 * ReceivingChild.Ram);
        Assert.True(placing.WaitAsync(Receiver.Budget).GetAwaiter().GetResult());
        Assert.Equal(0, block.MissingPages);
        byte[] expected = new byte[TestPages.Bytes];
        foreach (long page in (long[])[0, pages / 2, pages - 1])
        {
            guest.Touch(page * TestPages.Bytes);
            TestPages.Fill("ram", page * TestPages.Bytes, expected);
            Assert.Equal(expected[0], guest.Answer());
        }
    });

    private static unsafe bool PlaceAll(PostcopyPlacer placer, RamBlock block)
    {
        nuint page = (nuint)System.Runtime.InteropServices.NativeMemory.AlignedAlloc(TestPages.Bytes, TestPages.Bytes);
        for (long offset = 0; offset < block.UsedLength; offset += TestPages.Bytes)
        {
            TestPages.Fill("ram", offset, new Span<byte>((void*)page, TestPages.Bytes));
            if (!placer.Place(block, offset, page, TestPages.Bytes).IsReceived)
            {
                return false;
            }
        }

        return true;
    }

    private static ChildProcess Start(DirectoryInfo folder, string socket, MemoryCgroup? group)
    {
        ChildProcess child = ChildProcess.Start(ReceivingChild.Receive, Receiver.Budget + Receiver.Budget, Path.Combine(folder.FullName, socket));
        Assert.Equal("ready", child.ReadLine());
        group?.Add(child);
        child.WriteLine("go");
        return child;
    }
}
