using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;
using Postcopy.Vmm.Interop;

namespace Postcopy.Vmm.Machine;

/// <summary><c>/dev/kvm</c>, opened and found fit.</summary>
internal sealed unsafe class KvmSystem : IDisposable
{
    internal const string Device = "/dev/kvm";

    // struct kvm_cpuid2: a count and padding, then the entries.
    private const int ListHeader = 8;

    private KvmSystem(SafeFileHandle handle)
    {
        Handle = handle;
        RunSize = (nuint)Query(Kvm.KVM_GET_VCPU_MMAP_SIZE, 0, "KVM_GET_VCPU_MMAP_SIZE");
    }

    internal SafeFileHandle Handle { get; }

    /// <summary>Bytes of the area that a vCPU shares with the kernel.</summary>
    internal nuint RunSize { get; }

    /// <summary>Opens KVM, or says what is missing and what to do about it.</summary>
    /// <param name="device">Another device than KVM's, for tests.</param>
    /// <exception cref="VmmException">No KVM here, no access to it, or one without what is needed.</exception>
    internal static KvmSystem Open(string device = Device)
    {
        if (RuntimeInformation.ProcessArchitecture != Architecture.X64)
        {
            throw new VmmException($"This VMM runs x86 guests; the process is {RuntimeInformation.ProcessArchitecture}. Use an x86-64 host.");
        }

        SafeFileHandle handle = Libc.open(device, Libc.O_RDWR | Libc.O_CLOEXEC);
        if (handle.IsInvalid)
        {
            int errno = Marshal.GetLastPInvokeError();
            handle.Dispose();
            throw new VmmException(errno switch
            {
                Libc.ENOENT => $"{device} does not exist: load the module (modprobe kvm_intel, or kvm_amd), switch virtualization on in the firmware, or give this virtual machine nested virtualization.",
                Libc.EACCES or Libc.EPERM => $"{device} is not open to this user: add it to the group that owns the device (usermod -aG kvm USER, then log in again), or run as root.",
                _ => $"{device} cannot be opened: {Marshal.GetPInvokeErrorMessage(errno)} (errno {errno}).",
            });
        }

        KvmSystem system = new(handle);
        try
        {
            system.Require();
            return system;
        }
        catch
        {
            system.Dispose();
            throw;
        }
    }

    /// <summary>Makes a virtual machine; its descriptor.</summary>
    internal SafeFileHandle CreateVm() => new(Query(Kvm.KVM_CREATE_VM, 0, "KVM_CREATE_VM"), ownsHandle: true);

    /// <summary>
    /// What KVM can offer a guest's CPUID, without asynchronous page faults (hazard H26): with them a vCPU runs on or halts while
    /// a kernel worker waits for its page, and nobody could say how long the guest stood still.
    /// </summary>
    internal byte[] GuestCpuid()
    {
        const int most = 256;
        byte[] list = new byte[ListHeader + (most * sizeof(Kvm.kvm_cpuid_entry2))];
        fixed (byte* p = list)
        {
            *(uint*)p = most;
            Check(Libc.ioctl(Handle, Kvm.KVM_GET_SUPPORTED_CPUID, p), "KVM_GET_SUPPORTED_CPUID");
            foreach (ref Kvm.kvm_cpuid_entry2 entry in new Span<Kvm.kvm_cpuid_entry2>(p + ListHeader, *(int*)p))
            {
                if (entry.function == Kvm.KVM_CPUID_FEATURES)
                {
                    entry.eax &= ~(1u << Kvm.KVM_FEATURE_ASYNC_PF | 1u << Kvm.KVM_FEATURE_ASYNC_PF_VMEXIT | 1u << Kvm.KVM_FEATURE_ASYNC_PF_INT);
                }
            }
        }

        return list;
    }

    public void Dispose() => Handle.Dispose();

    /// <summary>Throws when a KVM call failed; errno is read here, right after the call.</summary>
    internal static void Check(int result, string operation)
    {
        if (result < 0)
        {
            throw Failed(operation, Marshal.GetLastPInvokeError());
        }
    }

    internal static VmmException Failed(string operation, int errno) =>
        new($"{operation} failed: {Marshal.GetPInvokeErrorMessage(errno)} (errno {errno}).");

    private void Require()
    {
        int version = Query(Kvm.KVM_GET_API_VERSION, 0, "KVM_GET_API_VERSION");
        if (version != Kvm.KVM_API_VERSION)
        {
            throw new VmmException($"{Device} speaks version {version} of the KVM interface; {Kvm.KVM_API_VERSION} is needed, which every Linux since 2.6.22 has.");
        }

        (uint Capability, string Name)[] needed =
        [
            (Kvm.KVM_CAP_USER_MEMORY, nameof(Kvm.KVM_CAP_USER_MEMORY)), (Kvm.KVM_CAP_EXT_CPUID, nameof(Kvm.KVM_CAP_EXT_CPUID)),
            (Kvm.KVM_CAP_XSAVE, nameof(Kvm.KVM_CAP_XSAVE)), (Kvm.KVM_CAP_XCRS, nameof(Kvm.KVM_CAP_XCRS)),
            (Kvm.KVM_CAP_VCPU_EVENTS, nameof(Kvm.KVM_CAP_VCPU_EVENTS)), (Kvm.KVM_CAP_DEBUGREGS, nameof(Kvm.KVM_CAP_DEBUGREGS)),
            (Kvm.KVM_CAP_IMMEDIATE_EXIT, nameof(Kvm.KVM_CAP_IMMEDIATE_EXIT)), (Kvm.KVM_CAP_GET_TSC_KHZ, nameof(Kvm.KVM_CAP_GET_TSC_KHZ)),
        ];
        foreach ((uint capability, string name) in needed)
        {
            if (Query(Kvm.KVM_CHECK_EXTENSION, capability, name) <= 0)
            {
                throw new VmmException($"This KVM has no {name}; use Linux 4.13 or newer.");
            }
        }
    }

    private int Query(uint request, nuint argument, string operation)
    {
        int result = Libc.ioctl(Handle, request, argument);
        return result >= 0 ? result : throw Failed(operation, Marshal.GetLastPInvokeError());
    }
}
