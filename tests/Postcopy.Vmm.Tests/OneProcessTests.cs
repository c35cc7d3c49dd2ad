using Postcopy.Uffd;
using Postcopy.Vmm.Guest;
using Postcopy.Vmm.Machine;

namespace Postcopy.Vmm.Tests;

/// <summary>From one machine to another inside this process: KVM's own faults, and the state that KVM hands over.</summary>
public sealed class OneProcessTests
{
    private const int Limit = 60_000;

    [Theory(Timeout = Limit)]
    [InlineData(1, false)]
    [InlineData(1, true)]
    [InlineData(2, true)]
    [InlineData(4, true)]
    public async Task AGuestGoesOnWhereItsPagesComeOnDemand(int vcpus, bool longMode)
    {
        using KvmSystem kvm = Requires.Kvm();
        Requires.Userfaultfd();
        using VirtualMachine source = TestMachine.Boot(kvm, vcpus, new GuestSettings { LongMode = longMode, PagesPerVcpu = 512 });
        _ = await source.HeartbeatsAsync();
        source.Stop(TestMachine.Limit);
        GuestReport[] before = source.Reports();
        VcpuState[] states = [.. source.Save().Select(s => VcpuState.Decode(s.Encode()))];

        using VirtualMachine target = TestMachine.Create(kvm, vcpus);
        await using PostcopyDestination destination = new();
        RamBlock block = destination.Blocks.Add(new RamBlockSpec { Name = "ram", Memory = target.Ram });
        using LocalSource pages = new(source.Ram, destination.Placer);
        destination.Advise();
        target.Restore(states);
        target.Serial.Pending = source.Serial.Pending;
        destination.Listen(pages);
        destination.Run();
        target.Start();
        _ = await target.HeartbeatsAsync();
        _ = await target.HeartbeatsAsync();
        _ = await target.HeartbeatsAsync();
        pages.SendRest(block);
        CompletionReport report = await destination.CompleteAsync();
        _ = await target.HeartbeatsAsync();

        target.AssertSound();
        for (int i = 0; i < vcpus; i++)
        {
            Assert.Equal((int)before[i].Beats + 1, target.Beats(i)[0]);
        }

        Assert.True(report.Faults.Requests >= vcpus * 100, $"Only {report.Faults.Requests} pages were asked for.");
        Assert.Equal(0, report.Faults.Unknown);
    }
}
