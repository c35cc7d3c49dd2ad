namespace Postcopy.Vmm.Interop;

/// <summary>Numbers of <c>linux/kvm.h</c> for x86-64; a test compiles each against the machine's header.</summary>
internal static partial class Kvm
{
    internal const int KVM_API_VERSION = 12;

    internal const uint KVM_GET_API_VERSION = 0xae00u;
    internal const uint KVM_CREATE_VM = 0xae01u;
    internal const uint KVM_CHECK_EXTENSION = 0xae03u;
    internal const uint KVM_GET_VCPU_MMAP_SIZE = 0xae04u;
    internal const uint KVM_GET_SUPPORTED_CPUID = 0xc008ae05u;
    internal const uint KVM_CREATE_VCPU = 0xae41u;
    internal const uint KVM_GET_DIRTY_LOG = 0x4010ae42u;
    internal const uint KVM_SET_USER_MEMORY_REGION = 0x4020ae46u;
    internal const uint KVM_RUN = 0xae80u;
    internal const uint KVM_GET_REGS = 0x8090ae81u;
    internal const uint KVM_SET_REGS = 0x4090ae82u;
    internal const uint KVM_GET_SREGS = 0x8138ae83u;
    internal const uint KVM_SET_SREGS = 0x4138ae84u;
    internal const uint KVM_GET_MSRS = 0xc008ae88u;
    internal const uint KVM_SET_MSRS = 0x4008ae89u;
    internal const uint KVM_GET_XSAVE = 0x9000aea4u;
    internal const uint KVM_SET_XSAVE = 0x5000aea5u;
    internal const uint KVM_GET_XCRS = 0x8188aea6u;
    internal const uint KVM_SET_XCRS = 0x4188aea7u;
    internal const uint KVM_SET_CPUID2 = 0x4008ae90u;
    internal const uint KVM_GET_MP_STATE = 0x8004ae98u;
    internal const uint KVM_SET_MP_STATE = 0x4004ae99u;
    internal const uint KVM_GET_VCPU_EVENTS = 0x8040ae9fu;
    internal const uint KVM_SET_VCPU_EVENTS = 0x4040aea0u;
    internal const uint KVM_GET_DEBUGREGS = 0x8080aea1u;
    internal const uint KVM_SET_DEBUGREGS = 0x4080aea2u;
    internal const uint KVM_GET_TSC_KHZ = 0xaea3u;
    internal const uint KVM_CAP_USER_MEMORY = 3;
    internal const uint KVM_CAP_XSAVE = 55;
    internal const uint KVM_CAP_XCRS = 56;
    internal const uint KVM_CAP_VCPU_EVENTS = 41;
    internal const uint KVM_CAP_DEBUGREGS = 50;
    internal const uint KVM_CAP_MAX_VCPUS = 66;
    internal const uint KVM_CAP_IMMEDIATE_EXIT = 136;
    internal const uint KVM_CAP_GET_TSC_KHZ = 61;
    internal const uint KVM_CAP_EXT_CPUID = 7;
    internal const uint KVM_CPUID_FEATURES = 0x40000001u;
    internal const int KVM_FEATURE_ASYNC_PF = 4;
    internal const int KVM_FEATURE_ASYNC_PF_VMEXIT = 10;
    internal const int KVM_FEATURE_ASYNC_PF_INT = 14;
    internal const uint KVM_MEM_LOG_DIRTY_PAGES = 1;
    internal const uint KVM_EXIT_IO = 2;
    internal const uint KVM_EXIT_HLT = 5;
    internal const uint KVM_EXIT_MMIO = 6;
    internal const uint KVM_EXIT_SHUTDOWN = 8;
    internal const uint KVM_EXIT_FAIL_ENTRY = 9;
    internal const uint KVM_EXIT_INTR = 10;
    internal const uint KVM_EXIT_INTERNAL_ERROR = 17;
    internal const uint KVM_EXIT_IO_OUT = 1;
    internal const uint KVM_INTERNAL_ERROR_EMULATION = 1;
    internal const uint KVM_MP_STATE_RUNNABLE = 0;
    internal const uint KVM_MP_STATE_HALTED = 3;
}
