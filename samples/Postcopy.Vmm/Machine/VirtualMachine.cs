using Microsoft.Win32.SafeHandles;
using Postcopy.Uffd;
using Postcopy.Vmm.Interop;

namespace Postcopy.Vmm.Machine;

/// <summary>A virtual machine: memory slots, vCPUs, ports.</summary>
/// <remarks>
/// Memory is added before the first <see cref="Start"/>; on a destination it is registered with userfaultfd before that
/// too. Start, stop, save and restore come from one thread; vCPU threads only call the On... members.
/// </remarks>
internal sealed unsafe class VirtualMachine : IDisposable
{
    internal const int MostVcpus = 4;

    private readonly SafeFileHandle _handle;
    private readonly List<MemorySlot> _slots = [];
    private readonly TaskCompletionSource _ended = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private int _running;

    internal VirtualMachine(KvmSystem kvm, int vcpus)
    {
        if (vcpus is < 1 or > MostVcpus)
        {
            throw new VmmException($"{vcpus} vCPUs are not possible; 1 to {MostVcpus} are.");
        }

        Ports = new PortBus(Serial);
        _handle = kvm.CreateVm();
        byte[] cpuid = kvm.SupportedCpuid();
        Vcpus = [.. Enumerable.Range(0, vcpus).Select(i => new Vcpu(this, _handle, i, kvm.RunSize, cpuid))];
    }

    internal sealed record MemorySlot(uint Slot, ulong GuestPhysical, GuestMemory Memory, long Offset, long Length);

    internal IReadOnlyList<Vcpu> Vcpus { get; }

    internal SerialPort Serial { get; } = new();

    internal PortBus Ports { get; }

    internal IReadOnlyList<MemorySlot> Slots => _slots;

    /// <summary>True between Start and Stop.</summary>
    internal bool IsRunning { get; private set; }

    /// <summary>Ends when all vCPUs have halted, or fails with why one of them had to stop.</summary>
    internal Task Ended => _ended.Task;

    /// <summary>Accesses to addresses without memory.</summary>
    internal long UnhandledMmio;

    /// <summary>Lets the guest see memory.</summary>
    internal void AddMemory(ulong guestPhysical, GuestMemory memory, long offset, long length)
    {
        MemorySlot slot = new((uint)_slots.Count, guestPhysical, memory, offset, length);
        SetSlot(slot, logDirty: false);
        _slots.Add(slot);
    }

    /// <summary>Starts or ends KVM's record of written pages.</summary>
    internal void LogDirty(bool on)
    {
        foreach (MemorySlot slot in _slots)
        {
            SetSlot(slot, on);
        }
    }

    /// <summary>Gives the pages of a slot that were written since the last call, as runs of bytes in its memory.</summary>
    internal List<PageRange> TakeDirty(MemorySlot slot)
    {
        const int pageBytes = 4096;
        long pages = slot.Length / pageBytes;
        ulong[] bitmap = new ulong[(pages + 63) / 64];
        fixed (ulong* p = bitmap)
        {
            Kvm.kvm_dirty_log log = new() { slot = slot.Slot, dirty_bitmap = p };
            KvmSystem.Check(Libc.ioctl(_handle, Kvm.KVM_GET_DIRTY_LOG, &log), nameof(Kvm.KVM_GET_DIRTY_LOG));
        }

        List<PageRange> runs = [];
        for (long page = 0, start = -1; page <= pages; page++)
        {
            bool dirty = page < pages && (bitmap[page / 64] >> (int)(page % 64) & 1) != 0;
            if (dirty && start < 0)
            {
                start = page;
            }
            else if (!dirty && start >= 0)
            {
                runs.Add(new PageRange(slot.Offset + (start * pageBytes), (page - start) * pageBytes));
                start = -1;
            }
        }

        return runs;
    }

    /// <summary>Runs the guest.</summary>
    /// <param name="onThread">Called on each vCPU's thread before it enters the guest.</param>
    internal void Start(Action<Vcpu>? onThread = null)
    {
        IsRunning = true;
        Vcpu[] live = [.. Vcpus.Where(v => !v.Halted)];
        Volatile.Write(ref _running, live.Length);
        foreach (Vcpu vcpu in live)
        {
            vcpu.Start(onThread);
        }
    }

    /// <summary>Takes all vCPUs out of the guest.</summary>
    /// <param name="limit">How long to wait, for a vCPU may be waiting for a page.</param>
    /// <exception cref="VmmException">One did not stop in time.</exception>
    internal void Stop(TimeSpan limit)
    {
        foreach (Vcpu vcpu in Vcpus)
        {
            vcpu.RequestStop();
        }

        foreach (Vcpu vcpu in Vcpus)
        {
            if (!vcpu.Join(limit))
            {
                throw new VmmException($"vCPU {vcpu.Index} did not leave the guest within {limit.TotalSeconds:0.#} s; is it waiting for a page that never comes?");
            }
        }

        IsRunning = false;
    }

    internal VcpuState[] Save() => [.. Vcpus.Select(v => v.Save())];

    internal void Restore(IReadOnlyList<VcpuState> states)
    {
        for (int i = 0; i < Vcpus.Count; i++)
        {
            Vcpus[i].Restore(states[i]);
        }
    }

    /// <summary>Frees everything but the memory, which is the caller's. No vCPU may be running.</summary>
    public void Dispose()
    {
        foreach (Vcpu vcpu in Vcpus)
        {
            vcpu.Dispose();
        }

        _handle.Dispose();
    }

    internal void OnHalted(Vcpu vcpu)
    {
        if (Interlocked.Decrement(ref _running) == 0)
        {
            _ = _ended.TrySetResult();
        }
    }

    internal void OnVcpuFailed(Exception e) => _ = _ended.TrySetException(e);

    internal void OnUnhandledMmio(Vcpu vcpu, ulong address, int length, bool write)
    {
        if (Interlocked.Increment(ref UnhandledMmio) == 1)
        {
            Console.Error.WriteLine($"vCPU {vcpu.Index} {(write ? "writes" : "reads")} {length} bytes at 0x{address:x}, where there is no memory (said once).");
        }
    }

    private void SetSlot(MemorySlot slot, bool logDirty)
    {
        Kvm.kvm_userspace_memory_region region = new()
        {
            slot = slot.Slot,
            flags = logDirty ? Kvm.KVM_MEM_LOG_DIRTY_PAGES : 0,
            guest_phys_addr = slot.GuestPhysical,
            memory_size = (ulong)slot.Length,
            userspace_addr = slot.Memory.Address + (nuint)slot.Offset,
        };
        KvmSystem.Check(Libc.ioctl(_handle, Kvm.KVM_SET_USER_MEMORY_REGION, &region), nameof(Kvm.KVM_SET_USER_MEMORY_REGION));
    }
}
