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
        using TestMachine source = new(kvm, vcpus);
        source.Boot(new GuestSettings { LongMode = longMode, PagesPerVcpu = 512 });
        _ = await source.HeartbeatsAsync();
        source.Vm.Stop(TestMachine.Limit);
        GuestReport[] before = source.Reports();
        VcpuState[] states = [.. source.Vm.Save().Select(s => VcpuState.Decode(s.Encode()))];

        using TestMachine target = new(kvm, vcpus);
        await using PostcopyDestination destination = new();
        RamBlock block = destination.Blocks.Add(new RamBlockSpec { Name = "ram", Memory = target.Memory });
        using LocalSource pages = new(source.Memory, destination.Placer);
        destination.Advise();
        target.Vm.Restore(states);
        target.Vm.Serial.Pending = source.Vm.Serial.Pending;
        destination.Listen(pages);
        destination.Run();
        target.Vm.Start();
        int[] beats = await target.HeartbeatsAsync();
        _ = await target.HeartbeatsAsync();
        _ = await target.HeartbeatsAsync();
        pages.SendRest(block);
        CompletionReport report = await destination.CompleteAsync();
        _ = await target.HeartbeatsAsync();
        target.Vm.Stop(TestMachine.Limit);

        GuestReport[] after = target.Reports();
        for (int i = 0; i < vcpus; i++)
        {
            Assert.Equal((int)before[i].Beats + 1, beats[i]);
            Assert.Equal(0u, after[i].Errors);
            Assert.True(after[i].Touched > before[i].Touched);
        }

        Assert.True(report.Faults.Requests >= vcpus * 100, $"Only {report.Faults.Requests} pages were asked for.");
        Assert.Equal(0, report.Faults.Unknown);
    }
}
