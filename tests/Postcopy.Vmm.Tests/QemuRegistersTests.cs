using System.Globalization;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using Postcopy.Vmm.Interop;
using Postcopy.Vmm.Machine;
using Postcopy.Vmm.Migration;
using Postcopy.Vmm.Qemu;

namespace Postcopy.Vmm.Tests;

/// <summary>
/// A live QEMU's CPU with every register marked (Guests/registers.S), taken over: what QEMU itself says of its registers is
/// what KVM has.
/// </summary>
public sealed class QemuRegistersTests
{
    private const int Limit = 180_000;
    private const uint SegmentFlags = 0x00f0ff00;

    [Theory(Timeout = Limit)]
    [InlineData(false)]
    [InlineData(true)]
    public async Task EveryRegisterOfQemuArrivesInKvm(bool newest)
    {
        using KvmSystem kvm = Requires.Kvm();
        Requires.Userfaultfd();
        byte[] guest = GuestAssembler.Assemble(Path.Combine(Repository.Root, "tests/Postcopy.Vmm.Tests/Guests/registers.S"));
        await using QemuProcess qemu = await QemuProcess.StartAsync(guest, vcpus: 1, megabytes: 32, Requires.Qemu(newest));
        using CancellationTokenSource limit = new(TestMachine.Limit);
        if (qemu.Serial.Lines.Length == 0)
        {
            await qemu.Serial.NextAsync(l => l == "r").WaitAsync(limit.Token);
        }

        // It prints its line before it is quite at its end.
        await Task.Delay(TimeSpan.FromMilliseconds(200), limit.Token);
        _ = await qemu.Monitor.ExecuteAsync("stop", null, limit.Token);
        JsonObject command = new() { ["command-line"] = "info registers" };
        string said = (await qemu.Monitor.ExecuteAsync("human-monitor-command", command, limit.Token))!.GetValue<string>();

        using Socket listener = QemuGuest.Listen(out int port);
        await using Incoming incoming = new(kvm, TimeSpan.Zero);
        Task<IncomingReport> receiving = incoming.RunAsync(listener, limit.Token);
        await qemu.MigrateAsync(port, bandwidth: QemuGuest.SlowPrecopy, postcopyBandwidth: 0, cancellationToken: limit.Token);
        _ = await receiving;
        using VirtualMachine target = await incoming.Started;
        VcpuState state = target.Vcpus[0].Save();

        foreach ((string name, ulong value) in Numbers(state))
        {
            Assert.Equal((name, value), (name, Find(said, name)));
        }

        foreach ((string name, Kvm.kvm_segment segment) in Segments(state.Sregs))
        {
            Assert.Equal((name, Said: SegmentSaid(said, name)), (name, Said: Describe(segment)));
        }

        AssertFpu(said, MemoryMarshal.AsBytes(new Span<Kvm.kvm_xsave>(ref state.Xsave)));
        AssertMsrs(state);

        // The test is worth something only if the guest did what it was written for.
        Assert.Equal((0x0123456789abcdf0UL, 0x5555000UL, 0xfff12340000UL, 5UL), (state.Regs.rbx, state.Sregs.cr2, state.Sregs.fs.@base, Find(said, "ST")));
    }

    private static IEnumerable<(string Name, ulong Value)> Numbers(VcpuState state)
    {
        Kvm.kvm_regs r = state.Regs;
        Kvm.kvm_sregs s = state.Sregs;
        return
        [
            ("RAX", r.rax), ("RBX", r.rbx), ("RCX", r.rcx), ("RDX", r.rdx), ("RSI", r.rsi), ("RDI", r.rdi), ("RBP", r.rbp), ("RSP", r.rsp),
            ("R8", r.r8), ("R9", r.r9), ("R10", r.r10), ("R11", r.r11), ("R12", r.r12), ("R13", r.r13), ("R14", r.r14), ("R15", r.r15),
            ("RIP", r.rip), ("RFL", r.rflags), ("CR0", s.cr0), ("CR2", s.cr2), ("CR3", s.cr3), ("CR4", s.cr4), ("EFER", s.efer),
            .. DebugRegisters(state.Debugregs),
        ];
    }

    private static unsafe (string Name, ulong Value)[] DebugRegisters(Kvm.kvm_debugregs d) =>
        [("DR0", d.db[0]), ("DR1", d.db[1]), ("DR2", d.db[2]), ("DR3", d.db[3]), ("DR6", d.dr6), ("DR7", d.dr7)];

    private static (string Name, Kvm.kvm_segment Segment)[] Segments(Kvm.kvm_sregs s) =>
    [
        ("ES", s.es), ("CS", s.cs), ("SS", s.ss), ("DS", s.ds), ("FS", s.fs), ("GS", s.gs), ("TR", s.tr),
        ("GDT", new Kvm.kvm_segment { @base = s.gdt.@base, limit = s.gdt.limit }), ("IDT", new Kvm.kvm_segment { @base = s.idt.@base, limit = s.idt.limit }),
    ];

    private static string Describe(Kvm.kvm_segment s)
    {
        uint flags = ((uint)s.type << 8) | ((uint)s.s << 12) | ((uint)s.dpl << 13) | ((uint)s.present << 15) | ((uint)s.avl << 20) | ((uint)s.l << 21) | ((uint)s.db << 22) | ((uint)s.g << 23);
        return $"{s.selector:x4} {s.@base:x16} {s.limit:x8} {flags:x8}";
    }

    private static string SegmentSaid(string said, string name)
    {
        Match table = Regex.Match(said, $@"{name}=\s+([0-9a-f]+) ([0-9a-f]+)");
        if (table.Success)
        {
            return $"0000 {table.Groups[1].Value} {table.Groups[2].Value} 00000000";
        }

        GroupCollection parts = Regex.Match(said, $@"\b{name}\s*=([0-9a-f]+) ([0-9a-f]+) ([0-9a-f]+) ([0-9a-f]+)").Groups;
        return $"{parts[1].Value} {parts[2].Value} {parts[3].Value} {Hex(parts[4].Value) & SegmentFlags:x8}";
    }

    private static void AssertFpu(string said, ReadOnlySpan<byte> area)
    {
        Assert.Equal((Find(said, "FCW"), Find(said, "FSW"), Find(said, "FTW"), Find(said, "MXCSR")),
            (MemoryMarshal.Read<ushort>(area), MemoryMarshal.Read<ushort>(area[2..]), area[4], MemoryMarshal.Read<uint>(area[24..])));
        int top = (int)Find(said, "ST");
        for (int i = 0; i < 8; i++)
        {
            ReadOnlySpan<byte> st = area[(32 + (16 * ((i - top) & 7)))..];
            Assert.Contains($"FPR{i}={MemoryMarshal.Read<ulong>(st):x16} {MemoryMarshal.Read<ushort>(st[8..]):x4}", said, StringComparison.Ordinal);
        }

        for (int i = 0; i < 16; i++)
        {
            ReadOnlySpan<byte> xmm = area[(160 + (16 * i))..];
            Assert.Contains($"XMM{i:00}={MemoryMarshal.Read<ulong>(xmm[8..]):x16}{MemoryMarshal.Read<ulong>(xmm):x16}".Replace(" ", string.Empty, StringComparison.Ordinal), said.Replace(" ", string.Empty, StringComparison.Ordinal), StringComparison.Ordinal);
        }
    }

    /// <summary>QEMU does not print these; they are what the guest wrote.</summary>
    private static void AssertMsrs(VcpuState state)
    {
        Dictionary<uint, ulong> msrs = state.Msrs.ToDictionary(m => m.index, m => m.data);
        (uint Index, ulong Value)[] written =
        [
            (0xc0000081, 0x00130008_00000000), (0xc0000082, 0x1001), (0xc0000083, 0x1002), (0xc0000084, 0x300), (0xc0000102, 0x7f_00001003),
            (0x174, 8), (0x175, 0x9000), (0x176, 0xa000), (0x277, 0x00070106_00070406),
        ];
        Assert.Equal(written, written.Select(w => (w.Index, msrs[w.Index])));
    }

    private static ulong Find(string said, string name)
    {
        Match found = Regex.Match(said, $@"\b{name}\s*=([0-9a-f]+)");
        Assert.True(found.Success, $"QEMU says nothing of {name}: {said}");
        return Hex(found.Groups[1].Value);
    }

    private static ulong Hex(string digits) => ulong.Parse(digits, NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture);
}
