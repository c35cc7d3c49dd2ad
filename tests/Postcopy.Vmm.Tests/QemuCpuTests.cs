using System.Buffers.Binary;
using System.Runtime.InteropServices;
using Postcopy.Vmm.Interop;
using Postcopy.Vmm.Machine;
using Postcopy.Vmm.Migration;

namespace Postcopy.Vmm.Tests;

/// <summary>QEMU's cpu section with marked values, through KVM and back.</summary>
public sealed class QemuCpuTests
{
    [Fact]
    public void EveryRegisterArrivesInKvm()
    {
        using KvmSystem kvm = Requires.Kvm();
        using VirtualMachine machine = TestMachine.Create(kvm, 1);
        Vcpu vcpu = machine.Vcpus[0];

        vcpu.Restore(QemuCpu.Decode(LongMode(), vcpu.Save(), halted: false, ticks: 1_000_000_000));

        VcpuState state = vcpu.Save();
        ulong[] registers =
        [
            state.Regs.rax, state.Regs.rcx, state.Regs.rdx, state.Regs.rbx, state.Regs.rsp, state.Regs.rbp, state.Regs.rsi, state.Regs.rdi,
            state.Regs.r8, state.Regs.r9, state.Regs.r10, state.Regs.r11, state.Regs.r12, state.Regs.r13, state.Regs.r14, state.Regs.r15,
        ];
        Assert.Equal(Enumerable.Range(0, 16).Select(Marker), registers);
        Assert.Equal((0x8000UL, 0x46UL), (state.Regs.rip, state.Regs.rflags));
        Assert.Equal((0x80000011UL, 0x1234UL, 0x1000UL, 0x620UL, 0x500UL), (state.Sregs.cr0, state.Sregs.cr2, state.Sregs.cr3, state.Sregs.cr4, state.Sregs.efer));
        Assert.Equal((0x18, 1, 0, 11), (state.Sregs.cs.selector, state.Sregs.cs.l, state.Sregs.cs.db, state.Sregs.cs.type));
        Assert.Equal((0x10, 1, 3), (state.Sregs.ds.selector, state.Sregs.ds.db, state.Sregs.ds.type));
        Assert.Equal((0xfff_1234_0000UL, 0x7fff_0000UL), (state.Sregs.fs.@base, state.Sregs.gs.@base));
        Assert.Equal((0x7c20UL, 0x1f), (state.Sregs.gdt.@base, state.Sregs.gdt.limit));
        Assert.Equal(11, state.Sregs.tr.type);
        unsafe
        {
            Assert.Equal(0x11111000UL, state.Debugregs.db[0]);
        }

        Dictionary<uint, ulong> msrs = state.Msrs.ToDictionary(m => m.index, m => m.data);
        Assert.Equal((0x8UL, 0x9000UL, 0xa000UL), (msrs[0x174], msrs[0x175], msrs[0x176]));
        Assert.Equal(Enumerable.Range(0, 5).Select(i => 0x1000UL * (ulong)(i + 1)), new uint[] { 0xc0000081, 0xc0000082, 0xc0000083, 0xc0000084, 0xc0000102 }.Select(i => msrs[i]));

        // Its value is the host's on a KVM without time-stamp offsets, whatever was set.
        Assert.True(msrs[Vcpu.TscMsr] >= 1_000_000_000UL);
        AssertFpu(MemoryMarshal.AsBytes(new Span<Kvm.kvm_xsave>(ref state.Xsave)));
    }

    [Theory]
    [InlineData(144, 1u << 19, "system management mode")]
    [InlineData(144, 1u << 21, "SVM")]
    [InlineData(552, 0xffefffffu, "A20 is off")]
    [InlineData(1149, 8u, "interrupt 8 is being delivered")]
    [InlineData(1165, 14u, "exception 14 is being delivered")]
    [InlineData(140, 0x246u, "interrupts enabled")]
    public void AStateThatCannotGoOnIsRefusedWithTheReason(int offset, uint value, string reason)
    {
        byte[] body = LongMode();
        BinaryPrimitives.WriteUInt32BigEndian(body.AsSpan(offset), value);

        VmmException e = Assert.Throws<VmmException>(() => QemuCpu.Decode(body, new VcpuState(), halted: false, ticks: 0));

        Assert.Contains(reason, e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void SubsectionsThatMatterNotArePassedOverAndOthersAreRefused()
    {
        byte[] known = [.. LongMode(), .. Subsection("cpu/poll_control_msr", 8), .. Subsection("cpu/fpop_ip_dp", 18), .. Subsection("cpu/msr_smi_count", 8)];
        byte[] unknown = [.. known, .. Subsection("cpu/avx512", 1)];

        _ = QemuCpu.Decode(known, new VcpuState(), halted: false, ticks: 0);
        VmmException lost = Assert.Throws<VmmException>(() => QemuCpu.Decode(unknown, new VcpuState(), halted: false, ticks: 0));
        VmmException torn = Assert.Throws<VmmException>(() => QemuCpu.Decode(known.AsSpan(..^1), new VcpuState(), halted: false, ticks: 0));

        Assert.Contains("its state 'cpu/avx512' is not known here and would be lost", lost.Message, StringComparison.Ordinal);
        Assert.Contains("cpu/msr_smi_count", torn.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void ATooShortSectionIsRefused() =>
        _ = Assert.Throws<VmmException>(() => QemuCpu.Decode(new byte[QemuCpu.FixedLength - 1], new VcpuState(), halted: false, ticks: 0));

    private static ulong Marker(int i) => 0x1111_0000_0000_0000UL + ((ulong)i << 32) + (ulong)i;

    private static void AssertFpu(Span<byte> area)
    {
        Assert.Equal(0x37f, BinaryPrimitives.ReadUInt16LittleEndian(area));
        Assert.Equal(6, (BinaryPrimitives.ReadUInt16LittleEndian(area[2..]) >> 11) & 7);
        Assert.Equal(0xc0, area[4]);
        Assert.Equal(0x1f80u, BinaryPrimitives.ReadUInt32LittleEndian(area[24..]));

        // TOP is 6: ST(0) is the physical register 6.
        Assert.Equal(0x8000_0000_0000_0006UL, BinaryPrimitives.ReadUInt64LittleEndian(area[32..]));
        Assert.Equal(0x4006, BinaryPrimitives.ReadUInt16LittleEndian(area[40..]));
        for (int i = 0; i < 16; i++)
        {
            Assert.Equal(Marker(i), BinaryPrimitives.ReadUInt64LittleEndian(area[(160 + (16 * i))..]));
            Assert.Equal(~Marker(i), BinaryPrimitives.ReadUInt64LittleEndian(area[(168 + (16 * i))..]));
        }
    }

    private static byte[] LongMode()
    {
        byte[] body = new byte[QemuCpu.FixedLength];
        for (int i = 0; i < 16; i++)
        {
            U64(body, 8 * i, Marker(i));
            U64(body, 560 + (16 * i), Marker(i));
            U64(body, 568 + (16 * i), ~Marker(i));
        }

        U64(body, 128, 0x8000);
        U64(body, 136, 0x46);
        BinaryPrimitives.WriteUInt16BigEndian(body.AsSpan(148), 0x37f);
        BinaryPrimitives.WriteUInt16BigEndian(body.AsSpan(150), 6 << 11);
        BinaryPrimitives.WriteUInt16BigEndian(body.AsSpan(152), 0xc0);
        for (int i = 0; i < 8; i++)
        {
            U64(body, 156 + (10 * i), 0x8000_0000_0000_0000UL + (ulong)i);
            BinaryPrimitives.WriteUInt16BigEndian(body.AsSpan(164 + (10 * i)), (ushort)(0x4000 + i));
        }

        const uint data = 0x00cf9300;
        Segment(body, 0, 0x10, 0, uint.MaxValue, data);
        Segment(body, 1, 0x18, 0, uint.MaxValue, 0x00af9b00);
        Segment(body, 2, 0x10, 0, uint.MaxValue, data);
        Segment(body, 3, 0x10, 0, uint.MaxValue, data | 0x0f0000ff);
        Segment(body, 4, 0x10, 0xfff_1234_0000, uint.MaxValue, data);
        Segment(body, 5, 0x10, 0x7fff_0000, uint.MaxValue, data);
        Segment(body, 6, 0, 0, 0xffff, 0x8200);
        Segment(body, 7, 0, 0, 0xffff, 0x8b00);
        Segment(body, 8, 0, 0x7c20, 0x1f, 0);
        Segment(body, 9, 0, 0, 0x3ff, 0);
        BinaryPrimitives.WriteUInt32BigEndian(body.AsSpan(436), 8);
        U64(body, 440, 0x9000);
        U64(body, 448, 0xa000);
        U64(body, 456, 0x80000011);
        U64(body, 464, 0x1234);
        U64(body, 472, 0x1000);
        U64(body, 480, 0x620);
        U64(body, 488, 0x11111000);
        U64(body, 536, 0xffff0ff0);
        U64(body, 544, 0x400);
        BinaryPrimitives.WriteUInt32BigEndian(body.AsSpan(552), uint.MaxValue);
        BinaryPrimitives.WriteUInt32BigEndian(body.AsSpan(556), 0x1f80);
        U64(body, 816, 0x500);
        for (int i = 0; i < 5; i++)
        {
            U64(body, 824 + (8 * i), 0x1000UL * (ulong)(i + 1));
        }

        U64(body, 868, 0x0007040600070406);
        BinaryPrimitives.WriteInt32BigEndian(body.AsSpan(1149), -1);
        BinaryPrimitives.WriteInt32BigEndian(body.AsSpan(1165), -1);
        U64(body, 1545, 1);
        return body;
    }

    private static byte[] Subsection(string name, int length) =>
        [0x05, (byte)name.Length, .. System.Text.Encoding.ASCII.GetBytes(name), 0, 0, 0, 1, .. new byte[length]];

    private static void Segment(byte[] body, int index, uint selector, ulong start, uint limit, uint flags)
    {
        int at = 236 + (20 * index);
        BinaryPrimitives.WriteUInt32BigEndian(body.AsSpan(at), selector);
        U64(body, at + 4, start);
        BinaryPrimitives.WriteUInt32BigEndian(body.AsSpan(at + 12), limit);
        BinaryPrimitives.WriteUInt32BigEndian(body.AsSpan(at + 16), flags);
    }

    private static void U64(byte[] body, int at, ulong value) => BinaryPrimitives.WriteUInt64BigEndian(body.AsSpan(at), value);
}
