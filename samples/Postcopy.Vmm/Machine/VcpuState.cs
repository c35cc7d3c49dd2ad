using System.Buffers.Binary;
using System.Runtime.InteropServices;
using Postcopy.Vmm.Interop;

namespace Postcopy.Vmm.Machine;

/// <summary>
/// Everything that makes a vCPU go on elsewhere, in KVM's own structs. Encoded it is those structs one after the other
/// and then the MSRs: their layout is an ABI of the kernel, and both ends are this program.
/// </summary>
internal sealed class VcpuState
{
    /// <summary>The version of <see cref="Encode"/>'s layout.</summary>
    internal const uint Version = 1;

    private const int MostMsrs = 256;

    internal Kvm.kvm_regs Regs;
    internal Kvm.kvm_sregs Sregs;
    internal Kvm.kvm_xsave Xsave;
    internal Kvm.kvm_xcrs Xcrs;
    internal Kvm.kvm_vcpu_events Events;
    internal Kvm.kvm_debugregs Debugregs;
    internal Kvm.kvm_mp_state MpState;
    internal Kvm.kvm_msr_entry[] Msrs = [];

    /// <summary>The guest halted for good (HLT, and nothing here interrupts): it is not run.</summary>
    internal bool Halted;

    /// <summary>The state as bytes.</summary>
    internal byte[] Encode()
    {
        using MemoryStream to = new();
        to.Write(Bytes(ref Regs));
        to.Write(Bytes(ref Sregs));
        to.Write(Bytes(ref Xsave));
        to.Write(Bytes(ref Xcrs));
        to.Write(Bytes(ref Events));
        to.Write(Bytes(ref Debugregs));
        to.Write(Bytes(ref MpState));
        Span<byte> numbers = stackalloc byte[2 * sizeof(int)];
        BinaryPrimitives.WriteInt32LittleEndian(numbers, Halted ? 1 : 0);
        BinaryPrimitives.WriteInt32LittleEndian(numbers[sizeof(int)..], Msrs.Length);
        to.Write(numbers);
        to.Write(MemoryMarshal.AsBytes<Kvm.kvm_msr_entry>(Msrs));
        return to.ToArray();
    }

    /// <summary>Reads what <see cref="Encode"/> wrote.</summary>
    /// <exception cref="VmmException">The bytes are too few or too many.</exception>
    internal static VcpuState Decode(ReadOnlySpan<byte> from)
    {
        VcpuState state = new();
        Take(ref from, Bytes(ref state.Regs));
        Take(ref from, Bytes(ref state.Sregs));
        Take(ref from, Bytes(ref state.Xsave));
        Take(ref from, Bytes(ref state.Xcrs));
        Take(ref from, Bytes(ref state.Events));
        Take(ref from, Bytes(ref state.Debugregs));
        Take(ref from, Bytes(ref state.MpState));
        Span<byte> numbers = stackalloc byte[2 * sizeof(int)];
        Take(ref from, numbers);
        state.Halted = BinaryPrimitives.ReadInt32LittleEndian(numbers) != 0;
        int msrs = BinaryPrimitives.ReadInt32LittleEndian(numbers[sizeof(int)..]);
        if (msrs is < 0 or > MostMsrs)
        {
            throw new VmmException($"A vCPU state names {msrs} MSRs; at most {MostMsrs} are taken.");
        }

        state.Msrs = new Kvm.kvm_msr_entry[msrs];
        Take(ref from, MemoryMarshal.AsBytes(state.Msrs.AsSpan()));
        return from.IsEmpty ? state : throw new VmmException($"A vCPU state has {from.Length} bytes too many.");
    }

    private static Span<byte> Bytes<T>(ref T value)
        where T : unmanaged => MemoryMarshal.AsBytes(new Span<T>(ref value));

    private static void Take(ref ReadOnlySpan<byte> from, scoped Span<byte> to)
    {
        if (from.Length < to.Length)
        {
            throw new VmmException($"A vCPU state ends {to.Length - from.Length} bytes too early.");
        }

        from[..to.Length].CopyTo(to);
        from = from[to.Length..];
    }
}
