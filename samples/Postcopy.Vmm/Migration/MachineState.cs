using System.Buffers.Binary;
using System.Diagnostics;
using System.Text;
using Postcopy.Uffd.Qemu;
using Postcopy.Vmm.Machine;

namespace Postcopy.Vmm.Migration;

/// <summary>
/// The device state of a machine of ours: one section <c>vmm/machine</c>, and one <c>vmm/vcpu</c> for each vCPU with
/// KVM's structs in it.
/// </summary>
/// <param name="Vcpus">The vCPUs.</param>
/// <param name="Running">The guest ran, and is to run on; otherwise somebody had stopped it.</param>
/// <param name="A20">The latch of port 0x92.</param>
/// <param name="LineControl">The serial port's line control register.</param>
/// <param name="PendingLine">What the guest has printed of a line.</param>
/// <param name="StoppedAt">When the guest was stopped, on the clock of the host it ran on; null when unknown.</param>
internal sealed record MachineState(IReadOnlyList<VcpuState> Vcpus, bool Running, byte A20, byte LineControl, string PendingLine, HostMoment? StoppedAt)
{
    internal const string MachineSection = "vmm/machine";
    internal const string VcpuSection = "vmm/vcpu";

    private const uint MachineVersion = 2;
    private const byte SectionFull = 0x04;
    private const byte SectionFooter = 0x7e;

    // Where a section ends is found by its footer, so its number must not look like anything else in it.
    private const uint FirstSectionId = 0xb10c0de0;

    /// <summary>Reads all of it from a machine that is stopped now.</summary>
    internal static MachineState Save(VirtualMachine machine, bool running) =>
        new(machine.Save(), running, machine.Ports.A20, machine.Ports.LineControl, machine.Serial.Pending, HostMoment.Now());

    /// <summary>Puts all of it into a machine that has not run.</summary>
    /// <exception cref="VmmException">KVM does not take it.</exception>
    internal void Restore(VirtualMachine machine)
    {
        machine.Restore(Vcpus);
        machine.Ports.A20 = A20;
        machine.Ports.LineControl = LineControl;
        machine.Serial.Pending = PendingLine;
    }

    internal byte[] Encode()
    {
        using MemoryStream to = new();
        using MemoryStream body = new();
        body.WriteByte(A20);
        body.WriteByte(LineControl);
        body.WriteByte(Running ? (byte)1 : (byte)0);
        body.Write(Number64(StoppedAt?.Ticks ?? 0));
        body.Write((StoppedAt?.Boot ?? Guid.Empty).ToByteArray());
        body.Write(Encoding.ASCII.GetBytes(PendingLine));
        Section(to, FirstSectionId, MachineSection, 0, MachineVersion, body.ToArray());
        for (int i = 0; i < Vcpus.Count; i++)
        {
            Section(to, FirstSectionId + 1 + (uint)i, VcpuSection, (uint)i, VcpuState.Version, Vcpus[i].Encode());
        }

        return to.ToArray();
    }

    /// <summary>Reads what <see cref="Encode"/> wrote.</summary>
    /// <exception cref="VmmException">It is something else, or another version.</exception>
    internal static MachineState Decode(IReadOnlyList<DeviceSection> sections)
    {
        DeviceSection machine = sections.FirstOrDefault(s => s.Name == MachineSection)
            ?? throw new VmmException($"The device package has no section {MachineSection}.");
        const int momentAt = 3;
        const int bootAt = momentAt + sizeof(long);
        const int fixedBytes = bootAt + 16;
        if (machine.Version != MachineVersion || machine.Body.Length < fixedBytes)
        {
            throw new VmmException($"Section {MachineSection} has version {machine.Version} and {machine.Body.Length} bytes; version {MachineVersion} and {fixedBytes} bytes or more are known here. Use the same build at both ends.");
        }

        ReadOnlySpan<byte> body = machine.Body.Span;
        Guid boot = new(body.Slice(bootAt, 16));
        List<VcpuState> vcpus = [];
        foreach (DeviceSection section in sections.Where(s => s.Name == VcpuSection).OrderBy(s => s.Instance))
        {
            if (section.Version != VcpuState.Version || section.Instance != vcpus.Count)
            {
                throw new VmmException($"Section {VcpuSection}/{section.Instance} has version {section.Version}; {VcpuSection}/{vcpus.Count} with version {VcpuState.Version} was expected.");
            }

            vcpus.Add(VcpuState.Decode(section.Body.Span));
        }

        HostMoment? stopped = boot == Guid.Empty ? null : new HostMoment(boot, BinaryPrimitives.ReadInt64BigEndian(body[momentAt..]));
        return new MachineState(vcpus, body[2] != 0, body[0], body[1], Encoding.ASCII.GetString(body[fixedBytes..]), stopped);
    }

    private static void Section(Stream to, uint id, string name, uint instance, uint version, byte[] body)
    {
        to.WriteByte(SectionFull);
        to.Write(Number(id));
        to.WriteByte((byte)name.Length);
        to.Write(Encoding.ASCII.GetBytes(name));
        to.Write(Number(instance));
        to.Write(Number(version));
        to.Write(body);
        to.WriteByte(SectionFooter);
        to.Write(Number(id));
    }

    private static byte[] Number(uint value)
    {
        byte[] bytes = new byte[sizeof(uint)];
        BinaryPrimitives.WriteUInt32BigEndian(bytes, value);
        return bytes;
    }

    private static byte[] Number64(long value)
    {
        byte[] bytes = new byte[sizeof(long)];
        BinaryPrimitives.WriteInt64BigEndian(bytes, value);
        return bytes;
    }
}

/// <summary>A moment on the monotonic clock of a host, which all processes of that host share until it boots again.</summary>
internal sealed record HostMoment(Guid Boot, long Ticks)
{
    internal static HostMoment Now() => new(Guid.Parse(File.ReadAllText("/proc/sys/kernel/random/boot_id")), Stopwatch.GetTimestamp());

    /// <summary>How long ago that is; null when it was on another host.</summary>
    internal TimeSpan? Elapsed() => Now() is { } now && now.Boot == Boot ? Stopwatch.GetElapsedTime(Ticks, now.Ticks) : null;
}
