using System.Runtime.InteropServices;
using Postcopy.Uffd;
using Postcopy.Vmm.Guest;
using Postcopy.Vmm.Interop;
using Postcopy.Vmm.Machine;

namespace Postcopy.Vmm.Tests;

/// <summary>What the machine does with a guest that ends, or does what it cannot.</summary>
public sealed class MachineTests
{
    private const int Limit = 180_000;
    private const ushort Entry = 0x1000;

    [Fact(Timeout = Limit)]
    public async Task AHaltedGuestEnds()
    {
        using KvmSystem kvm = Requires.Kvm();
        using VirtualMachine machine = Boot(kvm, 0xf4);

        await machine.Ended;

        Assert.True(machine.Vcpus[0].Halted);
    }

    [Fact(Timeout = Limit)]
    public async Task ATripleFaultIsReported()
    {
        using KvmSystem kvm = Requires.Kvm();

        using VirtualMachine machine = TestMachine.Boot(kvm, 1, new GuestSettings { LongMode = false });
        _ = await machine.HeartbeatsAsync();
        machine.Stop(TestMachine.Limit);
        VcpuState state = machine.Save()[0];
        state.Sregs.idt.limit = 0;
        state.Regs.rip = Entry;
        machine.Ram.Write(Entry, [0x0f, 0x0b]); // ud2, and no handler for it
        machine.Vcpus[0].Restore(state);

        machine.Start();

        VmmException e = await Assert.ThrowsAsync<VmmException>(() => machine.Ended);
        Assert.Contains("shut down (a triple fault)", e.Message, StringComparison.Ordinal);
    }

    [Fact(Timeout = Limit)]
    public async Task AccessOutsideMemoryIsReportedAndReadsOnes()
    {
        using KvmSystem kvm = Requires.Kvm();

        // ds = 0xffff, mov al, [0xff00] (above the 1 MiB of RAM), out 0x3f8 twice with a line feed, hlt.
        using VirtualMachine machine = Boot(kvm, 0xb8, 0xff, 0xff, 0x8e, 0xd8, 0xa0, 0x00, 0xff, 0xba, 0xf8, 0x03, 0xee, 0xb0, 0x0a, 0xee, 0xf4);

        await machine.Ended;

        Assert.Equal(1, machine.UnhandledMmio);
        Assert.Equal(["\u00ff"], machine.Serial.Lines);
    }

    /// <summary>While the divisor latch is open the port takes a speed, which is no character.</summary>
    [Fact(Timeout = Limit)]
    public async Task ASerialPortThatIsSetUpPrintsNothing()
    {
        using KvmSystem kvm = Requires.Kvm();

        // 0x3fb <- 0x83, 0x3f8 <- 1, 0x3f9 <- 0, 0x3fb <- 3, 0x3f8 <- 'o' and a line feed, hlt.
        using VirtualMachine machine = Boot(
            kvm,
            0xba, 0xfb, 0x03, 0xb0, 0x83, 0xee, 0xba, 0xf8, 0x03, 0xb0, 0x01, 0xee, 0x42, 0xb0, 0x00, 0xee, 0xba, 0xfb, 0x03, 0xb0, 0x03, 0xee,
            0xba, 0xf8, 0x03, 0xb0, 0x6f, 0xee, 0xb0, 0x0a, 0xee, 0xf4);

        await machine.Ended;

        Assert.Equal(["o"], machine.Serial.Lines);
    }

    [Fact(Timeout = Limit)]
    public async Task TheA20LatchIsKeptAndAResetIsReported()
    {
        using KvmSystem kvm = Requires.Kvm();

        // 0x92 <- 2, read back and print as '0' + it, then 0x92 <- 3.
        using VirtualMachine machine = Boot(
            kvm, 0xb0, 0x02, 0xe6, 0x92, 0x30, 0xc0, 0xe4, 0x92, 0x04, 0x30, 0xba, 0xf8, 0x03, 0xee, 0xb0, 0x0a, 0xee, 0xb0, 0x03, 0xe6, 0x92, 0xf4);

        VmmException e = await Assert.ThrowsAsync<VmmException>(() => machine.Ended);

        Assert.Equal(["2"], machine.Serial.Lines);
        Assert.Contains("asked for a reset (port 0x92)", e.Message, StringComparison.Ordinal);
    }

    /// <summary>A guest that does nothing but run leaves KVM_RUN only by the signal.</summary>
    [Theory(Timeout = Limit)]
    [InlineData(1)]
    [InlineData(4)]
    public async Task AGuestThatNeverLeavesIsStoppedAndGoesOn(int vcpus)
    {
        using KvmSystem kvm = Requires.Kvm();
        using VirtualMachine machine = new(kvm, vcpus, GuestMemory.Allocate(new GuestMemoryOptions { Length = 1 << 20 }));
        machine.Ram.Write(Entry, [0x66, 0x40, 0xeb, 0xfc]); // inc eax; jmp
        foreach (Vcpu vcpu in machine.Vcpus)
        {
            vcpu.SetBootState(Entry);
        }

        for (int round = 0; round < 3; round++)
        {
            machine.Start();
            await Task.Delay(TimeSpan.FromMilliseconds(50));
            machine.Stop(TestMachine.Limit);
        }

        Assert.All(machine.Vcpus, v => Assert.True(v.Interruptions >= 3, $"{v.Interruptions} returns by a signal or immediate_exit"));
        await TestMachine.UntilAsync(() =>
        {
            machine.Start();
            machine.Stop(TestMachine.Limit);
            return machine.Save().All(s => s.Regs.rax > 0);
        });
    }

    /// <summary>A vCPU whose page a worker of KVM waits for is not blocked where anybody could see it (hazard H26).</summary>
    [Fact]
    public void GuestsAreNotOfferedAsynchronousPageFaults()
    {
        using KvmSystem kvm = Requires.Kvm();
        byte[] list = kvm.GuestCpuid();
        Kvm.kvm_cpuid_entry2[] entries = [.. MemoryMarshal.Cast<byte, Kvm.kvm_cpuid_entry2>(list.AsSpan(8))[..(int)BitConverter.ToUInt32(list)]];

        Assert.Contains(entries, e => e.function == Kvm.KVM_CPUID_FEATURES);
        Assert.DoesNotContain(entries, e => e.function == Kvm.KVM_CPUID_FEATURES && (e.eax & (1 << 4 | 1 << 10 | 1 << 14)) != 0);
    }

    [Fact(Timeout = Limit)]
    public async Task AnInstructionThatKvmCannotEmulateIsReportedWithItsBytes()
    {
        using KvmSystem kvm = Requires.Kvm();

        // fldpi, then hlt: on a KVM with hardware help it simply runs.
        using VirtualMachine machine = Boot(kvm, 0xd9, 0xeb, 0xf4);

        Exception? e = await Record.ExceptionAsync(() => machine.Ended);

        if (e is not null)
        {
            Assert.Contains("could not emulate the instruction d9eb", e.Message, StringComparison.Ordinal);
            Assert.Contains("rip 0x1000", e.Message, StringComparison.Ordinal);
        }
    }

    [Fact(Timeout = Limit)]
    public async Task StateSurvivesEncodingAndAnotherVcpu()
    {
        using KvmSystem kvm = Requires.Kvm();
        using VirtualMachine first = Boot(kvm, 0xb8, 0x34, 0x12, 0xf4);
        await first.Ended;
        byte[] saved = first.Save()[0].Encode();
        using VirtualMachine second = Create(kvm);

        second.Vcpus[0].Restore(VcpuState.Decode(saved));

        VcpuState restored = second.Vcpus[0].Save();
        Assert.Equal(0x1234u, (uint)restored.Regs.rax);
        Assert.True(restored.Halted);
        _ = Assert.Throws<VmmException>(() => VcpuState.Decode(saved.AsSpan(1)));
        _ = Assert.Throws<VmmException>(() => VcpuState.Decode([.. saved, 0]));
    }

    [Fact]
    public void TooManyVcpusAreRefused()
    {
        using KvmSystem kvm = Requires.Kvm();
        using GuestMemory memory = GuestMemory.Allocate(new GuestMemoryOptions { Length = 1 << 20 });

        _ = Assert.Throws<VmmException>(() => new VirtualMachine(kvm, 5, memory));
    }

    [Fact]
    public void WithoutKvmTheMessageHasTheRemedy()
    {
        VmmException missing = Assert.Throws<VmmException>(() => KvmSystem.Open("/dev/no-kvm").Dispose());
        VmmException other = Assert.Throws<VmmException>(() => KvmSystem.Open("/dev/null").Dispose());

        Assert.Contains("/dev/no-kvm does not exist: load the module (modprobe kvm_intel", missing.Message, StringComparison.Ordinal);
        Assert.Contains("KVM_GET_VCPU_MMAP_SIZE failed", other.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void WithoutRightsTheMessageHasTheRemedy()
    {
        Assert.SkipUnless(Environment.IsPrivilegedProcess, "Needs root, to be another user for a moment.");
        string device = Path.GetTempFileName();
        try
        {
            File.SetUnixFileMode(device, UnixFileMode.UserRead | UnixFileMode.UserWrite);
            _ = Record.Exception(() => KvmSystem.Open("/dev/no-kvm").Dispose()); // what it needs is loaded while this may open files
            Exception? e = null;
            Syscalls.AsNobody(() => e = Record.Exception(() => KvmSystem.Open(device).Dispose()));

            Assert.Contains($"{device} is not open to this user: add it to the group that owns the device (usermod -aG", Assert.IsType<VmmException>(e).Message, StringComparison.Ordinal);
        }
        finally
        {
            File.Delete(device);
        }
    }

    private static VirtualMachine Create(KvmSystem kvm) => new(kvm, 1, GuestMemory.Allocate(new GuestMemoryOptions { Length = 1 << 20 }));

    private static VirtualMachine Boot(KvmSystem kvm, params byte[] code)
    {
        VirtualMachine machine = Create(kvm);
        machine.Ram.Write(Entry, code);
        machine.Vcpus[0].SetBootState(Entry);
        machine.Start();
        return machine;
    }
}
