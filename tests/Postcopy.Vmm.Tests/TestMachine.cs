using Postcopy.Uffd;
using Postcopy.Vmm.Guest;
using Postcopy.Vmm.Machine;

namespace Postcopy.Vmm.Tests;

/// <summary>A small machine with our guest in it, and its memory.</summary>
internal sealed class TestMachine : IDisposable
{
    internal static readonly TimeSpan Limit = TimeSpan.FromSeconds(20);

    private const long Bytes = 16 << 20;

    internal TestMachine(KvmSystem kvm, int vcpus)
    {
        Memory = GuestMemory.Allocate(new GuestMemoryOptions { Length = Bytes });
        Vm = new VirtualMachine(kvm, vcpus);
        Vm.AddMemory(0, Memory, 0, Bytes);
    }

    internal GuestMemory Memory { get; }

    internal VirtualMachine Vm { get; }

    internal void Boot(GuestSettings settings)
    {
        Memory.Write(GuestSettings.LoadAddress, settings.Image());
        foreach (Vcpu vcpu in Vm.Vcpus)
        {
            vcpu.SetBootState(GuestSettings.LoadAddress);
        }

        Vm.Start();
    }

    /// <summary>Waits for the next heartbeat of every vCPU.</summary>
    internal async Task<int[]> HeartbeatsAsync()
    {
        Task<string>[] beats = [.. Vm.Vcpus.Select(v => Vm.Serial.NextAsync(l => l.StartsWith($"{v.Index}:", StringComparison.Ordinal)))];
        Task all = Task.WhenAll(beats);
        if (await Task.WhenAny(all, Vm.Ended).WaitAsync(Limit) != all)
        {
            await Vm.Ended;
            Assert.Fail("The guest halted.");
        }

        return [.. beats.Select(b => Convert.ToInt32(b.Result[2..], 16))];
    }

    internal GuestReport[] Reports() => [.. Vm.Vcpus.Select(v => GuestReport.Read(Memory, v.Index))];

    public void Dispose()
    {
        if (Vm.IsRunning)
        {
            Vm.Stop(Limit);
        }

        Vm.Dispose();
        Memory.Dispose();
    }
}
