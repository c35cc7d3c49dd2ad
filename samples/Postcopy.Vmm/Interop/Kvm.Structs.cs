using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Postcopy.Vmm.Interop;

/// <content>Structs of <c>linux/kvm.h</c> and <c>asm/kvm.h</c>: names, order and widths are the headers'.</content>
internal static unsafe partial class Kvm
{
    internal struct kvm_userspace_memory_region
    {
        internal uint slot;
        internal uint flags;
        internal ulong guest_phys_addr;
        internal ulong memory_size;
        internal ulong userspace_addr;
    }

    internal struct kvm_dirty_log
    {
        internal uint slot;
        internal uint padding1;
        internal void* dirty_bitmap;
    }

    internal struct kvm_regs
    {
        internal ulong rax, rbx, rcx, rdx;
        internal ulong rsi, rdi, rsp, rbp;
        internal ulong r8, r9, r10, r11;
        internal ulong r12, r13, r14, r15;
        internal ulong rip, rflags;
    }

    internal struct kvm_segment
    {
        internal ulong @base;
        internal uint limit;
        internal ushort selector;
        internal byte type;
        internal byte present, dpl, db, s, l, g, avl;
        internal byte unusable;
        internal byte padding;
    }

    internal struct kvm_dtable
    {
        internal ulong @base;
        internal ushort limit;
        internal fixed ushort padding[3];
    }

    internal struct kvm_sregs
    {
        internal kvm_segment cs, ds, es, fs, gs, ss;
        internal kvm_segment tr, ldt;
        internal kvm_dtable gdt, idt;
        internal ulong cr0, cr2, cr3, cr4, cr8;
        internal ulong efer;
        internal ulong apic_base;
        internal fixed ulong interrupt_bitmap[4];
    }

    /// <summary>An XSAVE area in the standard format: 512 bytes of FXSAVE, the header, then the extensions.</summary>
    internal struct kvm_xsave
    {
        internal fixed uint region[1024];
    }

    internal struct kvm_xcr
    {
        internal uint xcr;
        internal uint reserved;
        internal ulong value;
    }

    [InlineArray(16)]
    internal struct kvm_xcr_list
    {
        private kvm_xcr _first;
    }

    internal struct kvm_xcrs
    {
        internal uint nr_xcrs;
        internal uint flags;
        internal kvm_xcr_list xcrs;
        internal fixed ulong padding[16];
    }

    internal struct kvm_mp_state
    {
        internal uint mp_state;
    }

    /// <summary>Carried as it is; its parts are anonymous structs in C.</summary>
    internal struct kvm_vcpu_events
    {
        internal fixed ulong words[8];
    }

    internal struct kvm_debugregs
    {
        internal fixed ulong db[4];
        internal ulong dr6;
        internal ulong dr7;
        internal ulong flags;
        internal fixed ulong reserved[9];
    }

    internal struct kvm_msr_entry
    {
        internal uint index;
        internal uint reserved;
        internal ulong data;
    }

    internal struct kvm_cpuid_entry2
    {
        internal uint function;
        internal uint index;
        internal uint flags;
        internal uint eax, ebx, ecx, edx;
        internal fixed uint padding[3];
    }

    /// <summary>
    /// What of <c>struct kvm_run</c> is used, with the exit's union laid out for the exits that are handled. It is
    /// shared with the kernel: only the vCPU's own thread reads it, others only write <see cref="immediate_exit"/>.
    /// </summary>
    [StructLayout(LayoutKind.Explicit)]
    internal struct kvm_run
    {
        [FieldOffset(1)]
        internal byte immediate_exit;
        [FieldOffset(8)]
        internal uint exit_reason;

        [FieldOffset(32)]
        internal ulong hardware_exit_reason;

        [FieldOffset(32)]
        internal byte io_direction;
        [FieldOffset(33)]
        internal byte io_size;
        [FieldOffset(34)]
        internal ushort io_port;
        [FieldOffset(36)]
        internal uint io_count;
        [FieldOffset(40)]
        internal ulong io_data_offset;

        [FieldOffset(32)]
        internal ulong mmio_phys_addr;
        [FieldOffset(40)]
        internal fixed byte mmio_data[8];
        [FieldOffset(48)]
        internal uint mmio_len;
        [FieldOffset(52)]
        internal byte mmio_is_write;

        [FieldOffset(32)]
        internal uint internal_suberror;
        [FieldOffset(36)]
        internal uint internal_ndata;
        [FieldOffset(48)]
        internal byte emulation_insn_size;
        [FieldOffset(49)]
        internal fixed byte emulation_insn_bytes[15];
    }
}
