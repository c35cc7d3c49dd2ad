using System.Globalization;
using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;
using Postcopy.Uffd;
using Postcopy.Vmm.Interop;

namespace Postcopy.Vmm.Machine;

/// <summary>One virtual CPU and the thread that runs it.</summary>
/// <remarks>
/// Implementation notes. The thread is in KVM_RUN, an ordinary P/Invoke, whenever the guest runs; a missing page parks it
/// there. To stop it: <c>immediate_exit</c> is set first, then the signal sent. In the kernel the signal ends KVM_RUN;
/// outside, the next KVM_RUN sees the flag and returns at once, after completing a port access that was under way. So
/// the state is saved only after KVM_RUN returned EINTR. A vCPU that waits for a missing page may stop only when the page
/// comes: on this machine's KVM it always is so (kernel-uapi section 6, row 6).
/// </remarks>
internal sealed unsafe partial class Vcpu : IDisposable
{
    private const string NoMemory = "its page is poisoned, so its content is lost; or the userfaultfd handles faults of user mode only, and KVM's are the kernel's (run as root, or allow this user /dev/userfaultfd).";

    private readonly VirtualMachine _machine;
    private readonly SafeFileHandle _handle;
    private readonly Kvm.kvm_run* _run;
    private readonly nuint _runSize;
    private readonly Lock _threadLock = new();

    private Thread? _thread;
    private int _threadId;
    private long _interruptions;

    internal Vcpu(VirtualMachine machine, SafeFileHandle vm, int index, nuint runSize, byte[] cpuid)
    {
        _machine = machine;
        Index = index;
        _runSize = runSize;
        int created = Libc.ioctl(vm, Kvm.KVM_CREATE_VCPU, (nuint)index);
        if (created < 0)
        {
            throw KvmSystem.Failed(nameof(Kvm.KVM_CREATE_VCPU), Marshal.GetLastPInvokeError());
        }

        _handle = new SafeFileHandle(created, ownsHandle: true);
        nint run = Libc.mmap(0, runSize, Libc.PROT_READ | Libc.PROT_WRITE, Libc.MAP_SHARED, _handle, 0);
        if (run == -1)
        {
            throw KvmSystem.Failed("mmap of kvm_run", Marshal.GetLastPInvokeError());
        }

        _run = (Kvm.kvm_run*)run;
        fixed (byte* p = cpuid)
        {
            KvmSystem.Check(Libc.ioctl(_handle, Kvm.KVM_SET_CPUID2, p), nameof(Kvm.KVM_SET_CPUID2));
        }
    }

    internal int Index { get; }

    /// <summary>True after HLT: nothing in this machine would wake it.</summary>
    internal bool Halted { get; private set; }

    /// <summary>Ticks of the guest's time-stamp counter in a millisecond.</summary>
    internal long TscKilohertz => Libc.ioctl(_handle, Kvm.KVM_GET_TSC_KHZ, (nuint)0);

    /// <summary>Starts the thread.</summary>
    /// <param name="onThread">Called on it before the first KVM_RUN.</param>
    /// <param name="onLeft">Called on it after the last KVM_RUN.</param>
    internal void Start(Action<Vcpu> onThread, Action<Vcpu>? onLeft)
    {
        Volatile.Write(ref _run->immediate_exit, 0);
        _thread = new Thread(() => Main(onThread, onLeft)) { IsBackground = true, Name = $"vcpu-{Index}" };
        _thread.UnsafeStart();
    }

    /// <summary>How often a signal ended KVM_RUN.</summary>
    internal long Interruptions => Volatile.Read(ref _interruptions);

    /// <summary>Interrupts KVM_RUN without stopping the vCPU.</summary>
    internal void Kick()
    {
        lock (_threadLock)
        {
            if (_threadId != 0)
            {
                StopSignal.Send(_threadId);
            }
        }
    }

    /// <summary>Asks the thread to stop; <see cref="Join"/> waits for it.</summary>
    internal void RequestStop()
    {
        Volatile.Write(ref _run->immediate_exit, 1);
        Kick();
    }

    /// <summary>Waits for the thread's end.</summary>
    internal bool Join(TimeSpan limit) => _thread?.Join(limit) ?? true;

    /// <summary>Real mode at an address below 64 KiB, as after a boot sector was loaded.</summary>
    internal void SetBootState(ushort entry)
    {
        Kvm.kvm_sregs sregs = default;
        Get(Kvm.KVM_GET_SREGS, ref sregs, nameof(Kvm.KVM_GET_SREGS));
        sregs.cs.@base = 0;
        sregs.cs.selector = 0;
        Set(Kvm.KVM_SET_SREGS, ref sregs, nameof(Kvm.KVM_SET_SREGS));
        Kvm.kvm_regs regs = new() { rip = entry, rflags = 2 };
        Set(Kvm.KVM_SET_REGS, ref regs, nameof(Kvm.KVM_SET_REGS));
        Kvm.kvm_mp_state runnable = new() { mp_state = Kvm.KVM_MP_STATE_RUNNABLE };
        Set(Kvm.KVM_SET_MP_STATE, ref runnable, nameof(Kvm.KVM_SET_MP_STATE));
    }

    public void Dispose()
    {
        _ = Libc.munmap((nint)_run, _runSize);
        _handle.Dispose();
    }

    private void Main(Action<Vcpu> onThread, Action<Vcpu>? onLeft)
    {
        try
        {
            lock (_threadLock)
            {
                _threadId = (int)HostThread.CurrentId;
            }

            onThread(this);
            while (!Halted && RunOnce())
            {
            }
        }
        catch (Exception e)
        {
            _machine.OnVcpuFailed(e);
        }
        finally
        {
            lock (_threadLock)
            {
                _threadId = 0;
            }

            onLeft?.Invoke(this);
        }
    }

    /// <summary>False when the thread was told to stop.</summary>
    private bool RunOnce()
    {
        if (Libc.ioctl(_handle, Kvm.KVM_RUN, (void*)null) < 0)
        {
            int errno = Marshal.GetLastPInvokeError();
            _ = Interlocked.Increment(ref _interruptions);
            return errno is Libc.EINTR or Libc.EAGAIN
                ? Volatile.Read(ref _run->immediate_exit) == 0
                : throw new VmmException($"vCPU {Index}: {KvmSystem.Failed(nameof(Kvm.KVM_RUN), errno).Message} {(errno is Libc.EFAULT or Libc.EHWPOISON ? NoMemory : string.Empty)} {Where()}");
        }

        switch (_run->exit_reason)
        {
            case Kvm.KVM_EXIT_IO:
                PortAccess();
                break;
            case Kvm.KVM_EXIT_MMIO:
                MemoryMappedAccess();
                break;
            case Kvm.KVM_EXIT_HLT:
                Halted = true;
                _machine.OnHalted(this);
                break;
            case Kvm.KVM_EXIT_INTR:
                break;
            case Kvm.KVM_EXIT_SHUTDOWN:
                throw new VmmException($"vCPU {Index} shut down (a triple fault). {Where()}");
            case Kvm.KVM_EXIT_INTERNAL_ERROR:
                throw new VmmException(EmulationError());
            case Kvm.KVM_EXIT_FAIL_ENTRY:
                throw new VmmException($"vCPU {Index} could not be entered: hardware reason 0x{_run->hardware_exit_reason:x}. {Where()}");
            default:
                throw new VmmException($"vCPU {Index} left the guest for a reason that is not handled, {_run->exit_reason}. {Where()}");
        }

        return true;
    }

    private void PortAccess()
    {
        byte* data = (byte*)_run + _run->io_data_offset;
        uint bytes = _run->io_count * _run->io_size;
        for (uint i = 0; i < bytes; i++)
        {
            ushort port = (ushort)(_run->io_port + (i % _run->io_size));
            if (_run->io_direction == Kvm.KVM_EXIT_IO_OUT)
            {
                if (!_machine.Ports.Write(port, data[i]))
                {
                    throw new VmmException($"vCPU {Index} asked for a reset (port 0x{port:x}); there is no firmware here that would begin anew. {Where()}");
                }
            }
            else
            {
                data[i] = _machine.Ports.Read(port);
            }
        }
    }

    /// <summary>There is no device behind any address: reads give ones, writes go nowhere, and the machine is told.</summary>
    private void MemoryMappedAccess()
    {
        bool write = _run->mmio_is_write != 0;
        if (_run->mmio_phys_addr < (ulong)_machine.Ram.Length)
        {
            // A KVM on a software MMU gives such a page out as a device access; the guest would go on with made-up data.
            throw new VmmException($"vCPU {Index} cannot have its memory at 0x{_run->mmio_phys_addr:x}: {NoMemory} {Where()}");
        }

        if (!write)
        {
            new Span<byte>(_run->mmio_data, 8).Fill(0xff);
        }

        _machine.OnUnhandledMmio(this, _run->mmio_phys_addr, (int)_run->mmio_len, write);
    }

    private string EmulationError()
    {
        string bytes = _run->internal_ndata >= 4 && _run->emulation_insn_size is > 0 and <= 15
            ? Convert.ToHexStringLower(new ReadOnlySpan<byte>(_run->emulation_insn_bytes, _run->emulation_insn_size))
            : "(bytes not reported)";
        return _run->internal_suberror == Kvm.KVM_INTERNAL_ERROR_EMULATION
            ? $"vCPU {Index}: KVM could not emulate the instruction {bytes}. {Where()} A KVM on a software MMU knows integer instructions only (no SSE arithmetic, x87, popcnt)."
            : $"vCPU {Index}: KVM reports internal error {_run->internal_suberror}. {Where()}";
    }

    private string Where()
    {
        Kvm.kvm_regs regs = default;
        Get(Kvm.KVM_GET_REGS, ref regs, nameof(Kvm.KVM_GET_REGS));
        return string.Create(CultureInfo.InvariantCulture, $"rip 0x{regs.rip:x}, rflags 0x{regs.rflags:x}.");
    }
}
