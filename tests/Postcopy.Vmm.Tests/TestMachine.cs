using Postcopy.Uffd;
using Postcopy.Vmm.Guest;
using Postcopy.Vmm.Machine;

namespace Postcopy.Vmm.Tests;

/// <summary>What the tests do with machines.</summary>
internal static class TestMachine
{
    internal static readonly TimeSpan Limit = TimeSpan.FromSeconds(60);

    private const long Bytes = 16 << 20;

    internal static VirtualMachine Create(KvmSystem kvm, int vcpus) =>
        new(kvm, vcpus, GuestMemory.Allocate(new GuestMemoryOptions { Length = Bytes }));

    internal static VirtualMachine Boot(KvmSystem kvm, int vcpus, GuestSettings? settings = null)
    {
        VirtualMachine machine = Create(kvm, vcpus);
        (settings ?? new GuestSettings { PagesPerVcpu = 512 }).Load(machine);
        machine.Start();
        return machine;
    }

    /// <summary>Waits for something that nobody tells of.</summary>
    internal static async Task UntilAsync(Func<bool> condition)
    {
        using CancellationTokenSource limit = new(Limit);
        using PeriodicTimer timer = new(TimeSpan.FromMilliseconds(1));
        while (!condition())
        {
            _ = await timer.WaitForNextTickAsync(limit.Token);
        }
    }

    /// <summary>Waits for the next heartbeat of every vCPU.</summary>
    internal static async Task<int[]> HeartbeatsAsync(this VirtualMachine machine)
    {
        Task<string>[] beats = [.. machine.Vcpus.Select(v => machine.Serial.NextAsync(l => Heartbeat.TryParse(l, out Heartbeat beat) && beat.Vcpu == v.Index))];
        Task all = Task.WhenAll(beats);
        if (await Task.WhenAny(all, machine.Ended).WaitAsync(Limit) != all)
        {
            await machine.Ended;
            Assert.Fail("The guest halted.");
        }

        return [.. beats.Select(b => Heartbeat.TryParse(b.Result, out Heartbeat beat) ? beat.Count : 0)];
    }

    /// <summary>All heartbeats of a vCPU that a machine has seen.</summary>
    internal static int[] Beats(this VirtualMachine machine, int vcpu) => Heartbeat.Of(vcpu, machine.Serial.Lines);

    internal static GuestReport[] Reports(this VirtualMachine machine) => [.. machine.Vcpus.Select(v => GuestReport.Read(machine.Ram, v.Index))];

    /// <summary>Stops the machine and checks its memory, from inside and from outside, and its heartbeats.</summary>
    internal static void AssertSound(this VirtualMachine machine)
    {
        machine.Stop(Limit);
        foreach (GuestReport report in machine.Reports())
        {
            Assert.True(report.Errors == 0, $"vCPU {report.Index} found {report.Errors} wrong pages, the last at 0x{report.BadPage:x}.");
            int[] beats = machine.Beats(report.Index);
            Assert.Equal(Enumerable.Range(beats[0], beats.Length), beats);
        }

        MemoryCheck check = MemoryCheck.Run(machine);
        Assert.True(check.Wrong == 0, check.ToString());
    }
}
