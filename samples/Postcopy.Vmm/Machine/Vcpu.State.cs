using System.Runtime.InteropServices;
using Postcopy.Vmm.Interop;

namespace Postcopy.Vmm.Machine;

/// <content>The state that moves with the guest. For a vCPU that does not run.</content>
internal sealed unsafe partial class Vcpu
{
    // IA32_APIC_BASE comes with the sregs. The time-stamp counter goes last: the guest's time stops between get and set.
    private static readonly uint[] s_msrs =
    [
        0x174, 0x175, 0x176, // SYSENTER_CS, _ESP, _EIP
        0xc0000081, 0xc0000082, 0xc0000083, 0xc0000084, 0xc0000102, // STAR, LSTAR, CSTAR, FMASK, KERNEL_GS_BASE
        0xc0000103, // TSC_AUX
        0x277, // PAT
        0x1a0, // MISC_ENABLE
        0x10, // TSC
    ];

    internal const uint TscMsr = 0x10;

    /// <summary>Reads everything. Pending port accesses were completed when the vCPU stopped.</summary>
    internal VcpuState Save()
    {
        VcpuState state = new() { Halted = Halted };
        Get(Kvm.KVM_GET_REGS, ref state.Regs, nameof(Kvm.KVM_GET_REGS));
        Get(Kvm.KVM_GET_SREGS, ref state.Sregs, nameof(Kvm.KVM_GET_SREGS));
        Get(Kvm.KVM_GET_XSAVE, ref state.Xsave, nameof(Kvm.KVM_GET_XSAVE));
        Get(Kvm.KVM_GET_XCRS, ref state.Xcrs, nameof(Kvm.KVM_GET_XCRS));
        Get(Kvm.KVM_GET_VCPU_EVENTS, ref state.Events, nameof(Kvm.KVM_GET_VCPU_EVENTS));
        Get(Kvm.KVM_GET_DEBUGREGS, ref state.Debugregs, nameof(Kvm.KVM_GET_DEBUGREGS));
        Get(Kvm.KVM_GET_MP_STATE, ref state.MpState, nameof(Kvm.KVM_GET_MP_STATE));
        state.Msrs = ReadMsrs();
        return state;
    }

    /// <summary>Writes everything; KVM checks it.</summary>
    /// <exception cref="VmmException">KVM does not take this state; the message names the part.</exception>
    internal void Restore(VcpuState state)
    {
        // XCRs before the XSAVE area that they allow; sregs before events, which depend on the mode.
        Set(Kvm.KVM_SET_SREGS, ref state.Sregs, nameof(Kvm.KVM_SET_SREGS));
        Set(Kvm.KVM_SET_REGS, ref state.Regs, nameof(Kvm.KVM_SET_REGS));
        Set(Kvm.KVM_SET_XCRS, ref state.Xcrs, nameof(Kvm.KVM_SET_XCRS));
        Set(Kvm.KVM_SET_XSAVE, ref state.Xsave, nameof(Kvm.KVM_SET_XSAVE));
        Set(Kvm.KVM_SET_DEBUGREGS, ref state.Debugregs, nameof(Kvm.KVM_SET_DEBUGREGS));
        WriteMsrs(state.Msrs);
        Set(Kvm.KVM_SET_VCPU_EVENTS, ref state.Events, nameof(Kvm.KVM_SET_VCPU_EVENTS));
        Set(Kvm.KVM_SET_MP_STATE, ref state.MpState, nameof(Kvm.KVM_SET_MP_STATE));
        Halted = state.Halted;
    }

    private Kvm.kvm_msr_entry[] ReadMsrs()
    {
        List<Kvm.kvm_msr_entry> read = [];
        foreach (uint index in s_msrs)
        {
            // One at a time: KVM stops at the first that this host does not have.
            Span<Kvm.kvm_msr_entry> one = [default, new Kvm.kvm_msr_entry { index = index }];
            if (Msrs(Kvm.KVM_GET_MSRS, one, nameof(Kvm.KVM_GET_MSRS)))
            {
                read.Add(one[1]);
            }
        }

        return [.. read];
    }

    private void WriteMsrs(Kvm.kvm_msr_entry[] entries)
    {
        foreach (Kvm.kvm_msr_entry entry in entries)
        {
            Span<Kvm.kvm_msr_entry> one = [default, entry];
            if (!Msrs(Kvm.KVM_SET_MSRS, one, nameof(Kvm.KVM_SET_MSRS)))
            {
                throw new VmmException($"vCPU {Index}: this KVM does not take the value 0x{entry.data:x} in MSR 0x{entry.index:x}.");
            }
        }
    }

    /// <summary>Element 0 stands for the header of <c>struct kvm_msrs</c>, whose first field is the count.</summary>
    private bool Msrs(uint request, Span<Kvm.kvm_msr_entry> one, string name)
    {
        Span<byte> bytes = MemoryMarshal.AsBytes(one)[8..];
        bytes.Slice(0, 8).Clear();
        bytes[0] = 1;
        fixed (byte* p = bytes)
        {
            int done = Libc.ioctl(_handle, request, p);
            KvmSystem.Check(done, name);
            return done == 1;
        }
    }

    private void Get<T>(uint request, ref T value, string name)
        where T : unmanaged
    {
        fixed (T* p = &value)
        {
            KvmSystem.Check(Libc.ioctl(_handle, request, p), name);
        }
    }

    private void Set<T>(uint request, ref T value, string name)
        where T : unmanaged
    {
        fixed (T* p = &value)
        {
            if (Libc.ioctl(_handle, request, p) < 0)
            {
                int errno = Marshal.GetLastPInvokeError();
                throw new VmmException($"vCPU {Index}: this KVM does not take the state: {KvmSystem.Failed(name, errno).Message}");
            }
        }
    }
}
