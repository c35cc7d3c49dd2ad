using System.Buffers.Binary;
using Postcopy.Uffd.Qemu;
using Postcopy.Vmm.Machine;

namespace Postcopy.Vmm.Migration;

/// <summary>What our machine takes over of a QEMU PC: the CPUs and the A20 latch. All other devices stay behind.</summary>
internal static class QemuMachine
{
    /// <summary>How many CPUs the package has.</summary>
    internal static int CountCpus(IReadOnlyList<DeviceSection> sections) => sections.Count(s => s.Name == "cpu");

    /// <summary>Makes the state of our machine from the package.</summary>
    /// <param name="sections">The package's sections.</param>
    /// <param name="machine">The machine that will get it; it has not run.</param>
    /// <exception cref="VmmException">The CPU's state is one that cannot be taken over.</exception>
    internal static MachineState Decode(IReadOnlyList<DeviceSection> sections, VirtualMachine machine)
    {
        ulong ticks = Body(sections, "timer", 0) is { Length: >= sizeof(ulong) } timer ? BinaryPrimitives.ReadUInt64BigEndian(timer.Span) : 0;
        List<VcpuState> vcpus = [];
        foreach (Vcpu vcpu in machine.Vcpus)
        {
            DeviceSection cpu = sections.FirstOrDefault(s => s.Name == "cpu" && s.Instance == vcpu.Index)
                ?? throw new VmmException($"The package has no section cpu/{vcpu.Index}.");
            if (cpu.Version != QemuCpu.Version)
            {
                throw new VmmException($"The cpu section has version {cpu.Version}; only {QemuCpu.Version} is known here.");
            }

            bool halted = Body(sections, "cpu_common", vcpu.Index) is { Length: >= sizeof(uint) } common && BinaryPrimitives.ReadUInt32BigEndian(common.Span) != 0;
            vcpus.Add(QemuCpu.Decode(cpu.Body.Span, vcpu.Save(), halted, ticks));
        }

        byte a20 = Body(sections, "port92", 0) is { IsEmpty: false } port ? port.Span[0] : (byte)0;
        return new MachineState(vcpus, WasRunning(sections), a20, LineControl: 0, string.Empty, null);
    }

    /// <summary>True when the guest ran at the source: <c>globalstate</c> says it in words.</summary>
    private static bool WasRunning(IReadOnlyList<DeviceSection> sections) =>
        Body(sections, "globalstate", 0) is not { Length: > 11 } state || state.Span[4..].StartsWith("running\0"u8);

    private static ReadOnlyMemory<byte>? Body(IReadOnlyList<DeviceSection> sections, string name, int instance) =>
        sections.FirstOrDefault(s => s.Name == name && s.Instance == instance)?.Body;
}
