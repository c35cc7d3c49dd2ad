using System.Buffers.Binary;
using System.Runtime.InteropServices;
using System.Text;
using Postcopy.Vmm.Interop;
using Postcopy.Vmm.Machine;

namespace Postcopy.Vmm.Migration;

/// <summary>
/// QEMU's <c>cpu</c> section, version 12, as KVM's structs. The 1817 fixed bytes are laid out as in QEMU's own
/// description of them (docs of the wire, 7.1). Subsections follow for state that is not as after a reset: those that hold
/// nothing a guest without devices needs are passed over, and any other is refused, for it would be lost in silence.
/// </summary>
internal static unsafe class QemuCpu
{
    internal const uint Version = 12;
    internal const int FixedLength = 1817;

    private const int Rip = 128;
    private const int Rflags = 136;
    private const int Hflags = 144;
    private const int Fcw = 148;
    private const int FprBase = 156;
    private const int Segments = 236;
    private const int SegmentBytes = 20;
    private const int SysenterCs = 436;
    private const int Cr0 = 456;
    private const int Dr0 = 488;
    private const int A20Mask = 552;
    private const int Mxcsr = 556;
    private const int Xmm = 560;
    private const int Efer = 816;
    private const int Star = 824;
    private const int Pat = 868;
    private const int InterruptInjected = 1149;
    private const int Exception = 1165;
    private const int TscAux = 1521;
    private const int Xcr0 = 1545;
    private const int XstateBv = 1553;
    private const int YmmHigh = 1561;

    // Positions in an XSAVE area (Intel SDM volume 1, 13.4).
    private const int AreaMxcsr = 24;
    private const int AreaSt = 32;
    private const int AreaXmm = 160;
    private const int AreaXstateBv = 512;
    private const int AreaYmm = 576;

    // The MSR that lets a guest poll instead of halting, the count of SMIs, and where the last x87 instruction was.
    private static readonly Dictionary<string, int> s_passedOver = new() { ["cpu/poll_control_msr"] = 8, ["cpu/msr_smi_count"] = 8, ["cpu/fpop_ip_dp"] = 18 };

    private const ulong X87AndSse = 3;
    private const ulong Avx = 4;
    private const ulong InterruptFlag = 1 << 9;
    private const uint SystemManagementMode = 1 << 19;
    private const uint SvmGuest = 1 << 21;

    /// <summary>Makes a vCPU state from a section.</summary>
    /// <param name="body">The section's body.</param>
    /// <param name="fresh">The state of a vCPU that never ran: what QEMU does not say stays as it is there.</param>
    /// <param name="halted">From <c>cpu_common</c>: it waits for an interrupt.</param>
    /// <param name="ticks">The time-stamp counter, from <c>timer</c>.</param>
    /// <exception cref="VmmException">The state is one that this machine cannot go on from.</exception>
    internal static VcpuState Decode(ReadOnlySpan<byte> body, VcpuState fresh, bool halted, ulong ticks)
    {
        if (body.Length < FixedLength)
        {
            throw new VmmException($"The cpu section has {body.Length} bytes; version {Version} has {FixedLength} and more.");
        }

        Refuse(body, halted);
        fresh.Halted = halted;
        fresh.MpState.mp_state = halted ? Kvm.KVM_MP_STATE_HALTED : Kvm.KVM_MP_STATE_RUNNABLE;
        DecodeRegs(body, ref fresh.Regs);
        DecodeSregs(body, ref fresh.Sregs);
        DecodeFpu(body, ref fresh.Xsave);
        fresh.Xcrs.nr_xcrs = 1;
        fresh.Xcrs.xcrs[0] = new Kvm.kvm_xcr { value = Math.Max(U64(body, Xcr0), 1) };
        for (int i = 0; i < 4; i++)
        {
            fresh.Debugregs.db[i] = U64(body, Dr0 + (8 * i));
        }

        fresh.Debugregs.dr6 = U64(body, Dr0 + 48);
        fresh.Debugregs.dr7 = U64(body, Dr0 + 56);
        fresh.Msrs = DecodeMsrs(body, ticks);
        return fresh;
    }

    private static void Refuse(ReadOnlySpan<byte> body, bool halted)
    {
        uint hflags = U32(body, Hflags);
        string? why =
            (hflags & SystemManagementMode) != 0 ? "it is in system management mode"
            : (hflags & SvmGuest) != 0 ? "it runs a guest of its own (SVM)"
            : U32(body, A20Mask) != uint.MaxValue ? "its address line A20 is off"
            : (int)U32(body, InterruptInjected) >= 0 ? $"interrupt {U32(body, InterruptInjected)} is being delivered"
            : (int)U32(body, Exception) >= 0 ? $"exception {U32(body, Exception)} is being delivered"
            : !halted && (U64(body, Rflags) & InterruptFlag) != 0 ? "it has interrupts enabled, and here is no interrupt controller that would send any"
            : UnknownSubsection(body);
        if (why is not null)
        {
            throw new VmmException($"QEMU's CPU cannot go on here: {why}. Only guests that need no device but the serial port can be taken over.");
        }
    }

    /// <summary>A subsection is 05, its name, a version, and a body whose length only its name tells.</summary>
    private static string? UnknownSubsection(ReadOnlySpan<byte> body)
    {
        const byte subsection = 0x05;
        for (ReadOnlySpan<byte> rest = body[FixedLength..]; !rest.IsEmpty;)
        {
            int nameLength = rest.Length > 1 ? rest[1] : 0;
            if (rest[0] != subsection || rest.Length < 2 + nameLength + sizeof(uint))
            {
                return $"{rest.Length} bytes of its section are no subsection";
            }

            string name = Encoding.ASCII.GetString(rest.Slice(2, nameLength));
            if (!s_passedOver.TryGetValue(name, out int length) || rest.Length < 2 + nameLength + sizeof(uint) + length)
            {
                return $"its state '{name}' is not known here and would be lost; try a plainer -cpu, such as qemu64";
            }

            rest = rest[(2 + nameLength + sizeof(uint) + length)..];
        }

        return null;
    }

    private static void DecodeRegs(ReadOnlySpan<byte> body, ref Kvm.kvm_regs regs)
    {
        // QEMU's order is the instruction set's: RAX RCX RDX RBX RSP RBP RSI RDI.
        regs.rax = U64(body, 0);
        regs.rcx = U64(body, 8);
        regs.rdx = U64(body, 16);
        regs.rbx = U64(body, 24);
        regs.rsp = U64(body, 32);
        regs.rbp = U64(body, 40);
        regs.rsi = U64(body, 48);
        regs.rdi = U64(body, 56);
        regs.r8 = U64(body, 64);
        regs.r9 = U64(body, 72);
        regs.r10 = U64(body, 80);
        regs.r11 = U64(body, 88);
        regs.r12 = U64(body, 96);
        regs.r13 = U64(body, 104);
        regs.r14 = U64(body, 112);
        regs.r15 = U64(body, 120);
        regs.rip = U64(body, Rip);
        regs.rflags = U64(body, Rflags) | 2;
    }

    private static void DecodeSregs(ReadOnlySpan<byte> body, ref Kvm.kvm_sregs sregs)
    {
        sregs.es = Segment(body, 0);
        sregs.cs = Segment(body, 1);
        sregs.ss = Segment(body, 2);
        sregs.ds = Segment(body, 3);
        sregs.fs = Segment(body, 4);
        sregs.gs = Segment(body, 5);
        sregs.ldt = Segment(body, 6);
        sregs.tr = Segment(body, 7);
        if (sregs.tr.type is 0 or 3)
        {
            // After reset QEMU has no busy TSS there; the processor has one always, and KVM insists.
            sregs.tr.type = 11;
            sregs.tr.present = 1;
            sregs.tr.unusable = 0;
        }

        Kvm.kvm_segment gdt = Segment(body, 8);
        sregs.gdt.@base = gdt.@base;
        sregs.gdt.limit = (ushort)gdt.limit;
        Kvm.kvm_segment idt = Segment(body, 9);
        sregs.idt.@base = idt.@base;
        sregs.idt.limit = (ushort)idt.limit;
        sregs.cr0 = U64(body, Cr0);
        sregs.cr2 = U64(body, Cr0 + 8);
        sregs.cr3 = U64(body, Cr0 + 16);
        sregs.cr4 = U64(body, Cr0 + 24);
        sregs.efer = U64(body, Efer);
    }

    private static Kvm.kvm_segment Segment(ReadOnlySpan<byte> body, int index)
    {
        int at = Segments + (index * SegmentBytes);
        uint flags = U32(body, at + 16);
        bool present = (flags & (1 << 15)) != 0;
        return new Kvm.kvm_segment
        {
            selector = (ushort)U32(body, at),
            @base = U64(body, at + 4),
            limit = U32(body, at + 12),
            type = (byte)(flags >> 8 & 15),
            s = (byte)(flags >> 12 & 1),
            dpl = (byte)(flags >> 13 & 3),
            present = present ? (byte)1 : (byte)0,
            avl = (byte)(flags >> 20 & 1),
            l = (byte)(flags >> 21 & 1),
            db = (byte)(flags >> 22 & 1),
            g = (byte)(flags >> 23 & 1),
            unusable = present ? (byte)0 : (byte)1,
        };
    }

    private static void DecodeFpu(ReadOnlySpan<byte> body, ref Kvm.kvm_xsave xsave)
    {
        Span<byte> area = MemoryMarshal.AsBytes(new Span<Kvm.kvm_xsave>(ref xsave));
        area.Clear();
        ushort fsw = U16(body, Fcw + 2);
        BinaryPrimitives.WriteUInt16LittleEndian(area, U16(body, Fcw));
        BinaryPrimitives.WriteUInt16LittleEndian(area[2..], fsw);
        area[4] = (byte)U16(body, Fcw + 4);
        BinaryPrimitives.WriteUInt32LittleEndian(area[AreaMxcsr..], U32(body, Mxcsr));
        int top = fsw >> 11 & 7;
        for (int i = 0; i < 8; i++)
        {
            // QEMU lists the physical registers, the area ST(0) to ST(7).
            int from = FprBase + (((top + i) & 7) * 10);
            Span<byte> st = area[(AreaSt + (16 * i))..];
            BinaryPrimitives.WriteUInt64LittleEndian(st, U64(body, from));
            BinaryPrimitives.WriteUInt16LittleEndian(st[8..], U16(body, from + 8));
        }

        ulong parts = X87AndSse | ((U64(body, XstateBv) & U64(body, Xcr0)) & Avx);
        for (int i = 0; i < 16; i++)
        {
            CopyHalves(body, Xmm + (16 * i), area[(AreaXmm + (16 * i))..]);
            if ((parts & Avx) != 0)
            {
                CopyHalves(body, YmmHigh + (16 * i), area[(AreaYmm + (16 * i))..]);
            }
        }

        BinaryPrimitives.WriteUInt64LittleEndian(area[AreaXstateBv..], parts);
    }

    private static Kvm.kvm_msr_entry[] DecodeMsrs(ReadOnlySpan<byte> body, ulong ticks) =>
    [
        Msr(0x174, U32(body, SysenterCs)),
        Msr(0x175, U64(body, SysenterCs + 4)),
        Msr(0x176, U64(body, SysenterCs + 12)),
        Msr(0xc0000081, U64(body, Star)),
        Msr(0xc0000082, U64(body, Star + 8)),
        Msr(0xc0000083, U64(body, Star + 16)),
        Msr(0xc0000084, U64(body, Star + 24)),
        Msr(0xc0000102, U64(body, Star + 32)),
        Msr(0xc0000103, U64(body, TscAux)),
        Msr(0x277, U64(body, Pat)),
        Msr(Vcpu.TscMsr, ticks),
    ];

    private static Kvm.kvm_msr_entry Msr(uint index, ulong value) => new() { index = index, data = value };

    private static void CopyHalves(ReadOnlySpan<byte> body, int from, Span<byte> to)
    {
        BinaryPrimitives.WriteUInt64LittleEndian(to, U64(body, from));
        BinaryPrimitives.WriteUInt64LittleEndian(to[8..], U64(body, from + 8));
    }

    private static ushort U16(ReadOnlySpan<byte> body, int at) => BinaryPrimitives.ReadUInt16BigEndian(body[at..]);

    private static uint U32(ReadOnlySpan<byte> body, int at) => BinaryPrimitives.ReadUInt32BigEndian(body[at..]);

    private static ulong U64(ReadOnlySpan<byte> body, int at) => BinaryPrimitives.ReadUInt64BigEndian(body[at..]);
}
