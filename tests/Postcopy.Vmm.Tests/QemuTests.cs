using System.Net;
using System.Net.Sockets;
using System.Text.Json.Nodes;
using Postcopy.Uffd.Qemu;
using Postcopy.Vmm.Guest;
using Postcopy.Vmm.Machine;
using Postcopy.Vmm.Migration;
using Postcopy.Vmm.Qemu;

namespace Postcopy.Vmm.Tests;

/// <summary>A live guest of an unmodified QEMU, taken over by postcopy.</summary>
public sealed class QemuTests(ITestOutputHelper output)
{
    private const int Limit = 180_000;

    [Theory(Timeout = Limit)]
    [InlineData(1, false, false)]
    [InlineData(1, true, false)]
    [InlineData(2, false, false)]
    [InlineData(4, true, false)]
    [InlineData(1, false, true)]
    [InlineData(2, true, true)]
    [InlineData(4, true, true)]
    public async Task AGuestOfQemuGoesOnHereFromTheNextCount(int vcpus, bool longMode, bool newest)
    {
        using KvmSystem kvm = Requires.Kvm();
        Requires.Userfaultfd();
        await using QemuProcess qemu = await QemuGuest.BootAsync(vcpus, longMode, Requires.Qemu(newest));

        using Socket listener = QemuGuest.Listen(out int port);
        await using Incoming incoming = new(kvm, TimeSpan.Zero);
        Task<IncomingReport> receiving = incoming.RunAsync(listener);
        await qemu.MigrateAsync(port, bandwidth: QemuGuest.SlowPrecopy, postcopyBandwidth: 4 << 20);
        IncomingReport report = await receiving;
        using VirtualMachine target = await incoming.Started;
        _ = await target.HeartbeatsAsync();

        await QemuGuest.AssertTakenOverAsync(qemu, target);
        Assert.Equal(vcpus, report.Completion.Blocktime!.Vcpus.Count);
        output.WriteLine($"{report.From}: {report.Wire}, {report.Completion.Faults}");
        output.WriteLine(report.Completion.Blocktime.ToText());
    }

    /// <summary>The lengths of the sections from QEMU itself instead of from their footers; and a stopped guest stays stopped.</summary>
    [Fact(Timeout = Limit)]
    public async Task AStoppedGuestIsTakenOverByTheVmDescription()
    {
        using KvmSystem kvm = Requires.Kvm();
        Requires.Userfaultfd();
        await using QemuProcess qemu = await QemuGuest.BootAsync(vcpus: 2, longMode: true, Requires.Qemu());
        using CancellationTokenSource limit = new(TestMachine.Limit);
        string saved = Path.GetTempFileName();
        try
        {
            _ = await qemu.Monitor.ExecuteAsync("stop");
            _ = await qemu.Monitor.ExecuteAsync("migrate", new JsonObject { ["uri"] = $"exec:cat>{saved}" });
            Assert.Equal("completed", await qemu.Monitor.WaitForStatusAsync(["completed", "failed"], limit.Token));
            VmDescription description = VmDescription.ParseTrailing(await File.ReadAllBytesAsync(saved, limit.Token));
            _ = await qemu.Monitor.ExecuteAsync("cont");
            _ = await qemu.Serial.NextAsync(l => l.StartsWith("0:", StringComparison.Ordinal)).WaitAsync(limit.Token);
            _ = await qemu.Monitor.ExecuteAsync("stop");

            using Socket listener = QemuGuest.Listen(out int port);
            await using Incoming incoming = new(kvm, TimeSpan.Zero, description);
            Task<IncomingReport> receiving = incoming.RunAsync(listener, limit.Token);
            await qemu.MigrateAsync(port, bandwidth: QemuGuest.SlowPrecopy, postcopyBandwidth: 0);
            IncomingReport report = await receiving;
            using VirtualMachine target = await incoming.Started;

            Assert.False(target.IsRunning);
            Assert.Equal(0, report.Completion.Faults.Requests);
            target.Start();
            _ = await target.HeartbeatsAsync();
            await QemuGuest.AssertTakenOverAsync(qemu, target);
        }
        finally
        {
            File.Delete(saved);
        }
    }

    [Theory(Timeout = Limit)]
    [InlineData(1, false)]
    [InlineData(2, false)]
    [InlineData(4, false)]
    [InlineData(2, true)]
    public async Task AConnectionFromQemuThatBreaksIsMadeAnew(int vcpus, bool newest)
    {
        using KvmSystem kvm = Requires.Kvm();
        Requires.Userfaultfd();
        await using QemuProcess qemu = await QemuGuest.BootAsync(vcpus, longMode: true, Requires.Qemu(newest));

        using CancellationTokenSource limit = new(TestMachine.Limit);
        using Socket listener = QemuGuest.Listen(out int port);
        await using Incoming incoming = new(kvm, recoverTimeout: TestMachine.Limit);
        Task<IncomingReport> receiving = incoming.RunAsync(listener);
        await qemu.MigrateAsync(port, bandwidth: QemuGuest.SlowPrecopy, postcopyBandwidth: 4 << 20);
        using VirtualMachine target = await incoming.Started.WaitAsync(limit.Token);
        incoming.BreakConnection();
        await qemu.ResumeAsync(port, limit.Token);
        IncomingReport report = await receiving;
        _ = await target.HeartbeatsAsync();

        Assert.Equal(1, report.Wire.LostConnections);
        await QemuGuest.AssertTakenOverAsync(qemu, target);
    }

    /// <summary>The guest has not left QEMU: it goes on there, and nothing is here.</summary>
    [Theory(Timeout = Limit)]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(4)]
    public async Task AConnectionFromQemuThatBreaksInPrecopyLeavesTheGuestThere(int vcpus)
    {
        using KvmSystem kvm = Requires.Kvm();
        Requires.Userfaultfd();
        await using QemuProcess qemu = await QemuGuest.BootAsync(vcpus, longMode: true, Requires.Qemu());

        using CancellationTokenSource limit = new(TestMachine.Limit);
        using Socket listener = QemuGuest.Listen(out int port);
        await using CuttingProxy network = new($"127.0.0.1:{port}", cutAfter: 32 << 10);
        await using Incoming incoming = new(kvm, recoverTimeout: TestMachine.Limit);
        Task<IncomingReport> receiving = incoming.RunAsync(listener, limit.Token);
        await qemu.PrecopyAsync(network.Port, bandwidth: QemuGuest.SlowPrecopy, postcopyBandwidth: 0, limit.Token);
        QemuIncomingException lost = await Assert.ThrowsAsync<QemuIncomingException>(() => receiving);

        Assert.True(network.HasCut && lost.SourceMayResume);
        Assert.False(incoming.Started.IsCompletedSuccessfully);
        Assert.Equal("failed", await qemu.Monitor.WaitForStatusAsync(["failed", "completed"], limit.Token));
        await Task.WhenAll(Enumerable.Range(0, vcpus).Select(i => qemu.Serial.NextAsync(l => l.StartsWith($"{i}:", StringComparison.Ordinal)))).WaitAsync(limit.Token);
    }
}
