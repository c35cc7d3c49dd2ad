using Microsoft.Win32.SafeHandles;
using Postcopy.Uffd;
using Postcopy.Vmm.Interop;

namespace Postcopy.Vmm.Machine;

/// <summary>A virtual machine: RAM from address 0 on, vCPUs, ports.</summary>
/// <remarks>
/// On a destination the RAM is registered with userfaultfd before the first <see cref="Start"/>. Start, stop, save and restore come from one thread; vCPU threads only call the On... members.
/// </remarks>
internal sealed unsafe class VirtualMachine : IDisposable
{
    internal const int MostVcpus = 4;

    /// <summary>Above it a PC has its devices.</summary>
    internal const long MostMemory = 3L << 30;

    private const uint RamSlot = 0;

    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(10);

    private readonly SafeFileHandle _handle;
    private readonly TaskCompletionSource _ended = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private int _running;

    /// <summary>Makes a machine that does not run yet.</summary>
    /// <param name="kvm">KVM.</param>
    /// <param name="vcpus">How many vCPUs.</param>
    /// <param name="ram">Its memory; the machine owns it from now on.</param>
    internal VirtualMachine(KvmSystem kvm, int vcpus, GuestMemory ram)
    {
        Ram = ram;
        if (vcpus is < 1 or > MostVcpus)
        {
            throw new VmmException($"{vcpus} vCPUs are not possible; 1 to {MostVcpus} are.");
        }

        if (ram.Length > MostMemory)
        {
            throw new VmmException($"{ram.Length >> 20} MiB of memory are not possible; at most {MostMemory >> 20} MiB are.");
        }

        Ports = new PortBus(Serial);
        _handle = kvm.CreateVm();
        byte[] cpuid = kvm.GuestCpuid();
        Vcpus = [.. Enumerable.Range(0, vcpus).Select(i => new Vcpu(this, _handle, i, kvm.RunSize, cpuid))];
        SetSlot(logDirty: false);
    }

    internal GuestMemory Ram { get; }

    internal IReadOnlyList<Vcpu> Vcpus { get; }

    internal SerialPort Serial { get; } = new();

    internal PortBus Ports { get; }

    /// <summary>True between Start and Stop.</summary>
    internal bool IsRunning { get; private set; }

    /// <summary>Ends when all vCPUs have halted, or fails with why one of them had to stop.</summary>
    internal Task Ended => _ended.Task;

    /// <summary>Accesses to addresses without memory.</summary>
    internal long UnhandledMmio;

    /// <summary>Starts or ends KVM's record of written pages.</summary>
    internal void LogDirty(bool on) => SetSlot(on);

    /// <summary>Gives the pages that were written since the last call.</summary>
    internal List<PageRange> TakeDirty()
    {
        const int pageBytes = 4096;
        long pages = Ram.Length / pageBytes;
        ulong[] bitmap = new ulong[(pages + 63) / 64];
        fixed (ulong* p = bitmap)
        {
            Kvm.kvm_dirty_log log = new() { slot = RamSlot, dirty_bitmap = p };
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
                runs.Add(new PageRange(start * pageBytes, (page - start) * pageBytes));
                start = -1;
            }
        }

        return runs;
    }

    /// <summary>Runs the guest.</summary>
    /// <param name="onThread">Called on each vCPU's thread before it enters the guest.</param>
    /// <param name="onLeft">Called on each vCPU's thread when it is out of the guest for good: halted, stopped or failed.</param>
    internal void Start(Action<Vcpu>? onThread = null, Action<Vcpu>? onLeft = null)
    {
        IsRunning = true;
        Vcpu[] live = [.. Vcpus.Where(v => !v.Halted)];
        Volatile.Write(ref _running, live.Length);
        if (live.Length == 0)
        {
            _ = _ended.TrySetResult();
            return;
        }

        // None runs before all have introduced themselves: "all blocked at once" counts those that are known.
        Barrier ready = new(live.Length);
        foreach (Vcpu vcpu in live)
        {
            vcpu.Start(
                v =>
                {
                    try
                    {
                        onThread?.Invoke(v);
                    }
                    finally
                    {
                        // The others do not wait for one that failed.
                        ready.SignalAndWait();
                    }
                },
                onLeft);
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

    /// <summary>
    /// Stops the guest and frees everything, the memory too. A vCPU that does not stop, because its page never comes, keeps
    /// all of it alive instead: unmapping it under the thread would end the process.
    /// </summary>
    public void Dispose()
    {
        try
        {
            Stop(s_patience);
        }
        catch (VmmException e)
        {
            Console.Error.WriteLine($"The machine is left as it is: {e.Message}");
            return;
        }

        foreach (Vcpu vcpu in Vcpus)
        {
            vcpu.Dispose();
        }

        _handle.Dispose();
        Ram.Dispose();
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

    private void SetSlot(bool logDirty)
    {
        Kvm.kvm_userspace_memory_region region = new()
        {
            slot = RamSlot,
            flags = logDirty ? Kvm.KVM_MEM_LOG_DIRTY_PAGES : 0,
            guest_phys_addr = 0,
            memory_size = (ulong)Ram.Length,
            userspace_addr = Ram.Address,
        };
        KvmSystem.Check(Libc.ioctl(_handle, Kvm.KVM_SET_USER_MEMORY_REGION, &region), nameof(Kvm.KVM_SET_USER_MEMORY_REGION));
    }
}
