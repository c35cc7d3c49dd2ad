using System.Net.Sockets;
using System.Text.Json.Nodes;
using Postcopy.Uffd.Qemu;
using Postcopy.Vmm.Machine;
using Postcopy.Vmm.Migration;
using Postcopy.Vmm.Qemu;

namespace Postcopy.Vmm.Tests;

/// <summary>A CPU of QEMU that cannot go on here: the guest goes on where it was.</summary>
public sealed class QemuRefusalTests
{
    private const int Limit = 180_000;
    private const string Reason = "it has interrupts enabled";

    /// <summary>
    /// QEMU 7.2 knows no point of no return; as nothing ran here, its operator may cancel and let the guest go on.
    /// </summary>
    [Fact(Timeout = Limit)]
    public async Task ARefusedGuestGoesOnInAnOldQemuByItsMonitor()
    {
        using KvmSystem kvm = Requires.Kvm();
        Requires.Userfaultfd();
        await using QemuProcess qemu = await BootAsync(Requires.Qemu());
        using CancellationTokenSource limit = new(TestMachine.Limit);
        Assert.SkipUnless(await IsOlderThanPointOfNoReturnAsync(qemu), "Needs a QEMU before 10.2; newer ones take the guest back by themselves.");

        using Socket listener = QemuGuest.Listen(out int port);
        TaskCompletionSource migrating = new(TaskCreationOptions.RunContinuationsAsynchronously);
        await using Incoming incoming = new(kvm, TimeSpan.Zero)
        {
            OnRefused = async refusal =>
            {
                await migrating.Task;
                await qemu.Monitor.TakeGuestBackAsync(limit.Token);
            },
        };
        Task<IncomingReport> receiving = incoming.RunAsync(listener);
        await qemu.MigrateAsync(port, bandwidth: QemuGuest.SlowPrecopy, postcopyBandwidth: 4 << 20);
        migrating.SetResult();
        VmmException refused = await Assert.ThrowsAsync<VmmException>(() => receiving);

        Assert.Contains(Reason, refused.Message, StringComparison.Ordinal);
        Assert.False(incoming.Started.IsCompletedSuccessfully);
        await qemu.Serial.NextAsync(l => l == "x").WaitAsync(limit.Token);
    }

    /// <summary>What the one above would be without the monitor: why receive has --qmp.</summary>
    [Fact(Timeout = Limit)]
    public async Task ARefusedGuestIsLostInAnOldQemuWhoseConnectionClosed()
    {
        using KvmSystem kvm = Requires.Kvm();
        Requires.Userfaultfd();
        await using QemuProcess qemu = await BootAsync(Requires.Qemu());
        using CancellationTokenSource limit = new(TestMachine.Limit);
        Assert.SkipUnless(await IsOlderThanPointOfNoReturnAsync(qemu), "Needs a QEMU before 10.2; newer ones take the guest back by themselves.");

        await RefuseAsync(kvm, qemu);

        Assert.Equal("postcopy-paused", await qemu.Monitor.WaitForStatusAsync(["postcopy-paused", "failed"], limit.Token));
        VmmException no = await Assert.ThrowsAsync<VmmException>(() => qemu.Monitor.ExecuteAsync("cont", null, limit.Token));
        Assert.Contains("cont", no.Message, StringComparison.Ordinal);
    }

    /// <summary>Since 10.2 the source waits for the answer to PING 0x42 that never comes: the guest runs on there.</summary>
    [Fact(Timeout = Limit)]
    public async Task ARefusedGuestGoesOnInANewQemuByItself()
    {
        using KvmSystem kvm = Requires.Kvm();
        Requires.Userfaultfd();
        await using QemuProcess qemu = await BootAsync(Requires.Qemu(newest: true));
        using CancellationTokenSource limit = new(TestMachine.Limit);

        await RefuseAsync(kvm, qemu);

        Assert.Equal("failed", await qemu.Monitor.WaitForStatusAsync(["postcopy-paused", "failed"], limit.Token));
        await qemu.Serial.NextAsync(l => l == "x").WaitAsync(limit.Token);
        JsonNode? status = await qemu.Monitor.ExecuteAsync("query-status", null, limit.Token);
        Assert.Equal("running", status?["status"]?.GetValue<string>());
    }

    private static async Task RefuseAsync(KvmSystem kvm, QemuProcess qemu)
    {
        using Socket listener = QemuGuest.Listen(out int port);
        await using Incoming incoming = new(kvm, TimeSpan.Zero);
        Task<IncomingReport> receiving = incoming.RunAsync(listener);
        await qemu.MigrateAsync(port, bandwidth: QemuGuest.SlowPrecopy, postcopyBandwidth: 4 << 20);
        VmmException refused = await Assert.ThrowsAsync<VmmException>(() => receiving);

        Assert.Contains(Reason, refused.Message, StringComparison.Ordinal);
        Assert.False(incoming.Started.IsCompletedSuccessfully);
        QemuIncomingException cause = Assert.IsType<QemuIncomingException>(refused.InnerException);
        Assert.Equal(!await IsOlderThanPointOfNoReturnAsync(qemu), cause.SourceMayResume);
    }

    private static async Task<bool> IsOlderThanPointOfNoReturnAsync(QemuProcess qemu)
    {
        JsonNode version = (await qemu.Monitor.ExecuteAsync("query-version"))!["qemu"]!;
        return (version["major"]!.GetValue<int>(), version["minor"]!.GetValue<int>()).CompareTo((10, 2)) < 0;
    }

    private static async Task<QemuProcess> BootAsync(string? root)
    {
        // mov al, 0xff; out 0x21, al; out 0xa1, al: no interrupt comes, else the guest is at times inside the BIOS's handler, which has
        // them disabled. sti; mov dx, 0x3f8; mov al, 'x'; out; mov al, 10; out; then a while of nothing, and again.
        byte[] sector = new byte[512];
        byte[] code = [0xb0, 0xff, 0xe6, 0x21, 0xe6, 0xa1, 0xfb, 0xba, 0xf8, 0x03, 0xb0, 0x78, 0xee, 0xb0, 0x0a, 0xee, 0x31, 0xc9, 0x49, 0x75, 0xfd, 0xeb, 0xf0];
        code.CopyTo(sector, 0);
        sector[510] = 0x55;
        sector[511] = 0xaa;
        QemuProcess qemu = await QemuProcess.StartAsync(sector, vcpus: 1, megabytes: 32, root);
        await qemu.Serial.NextAsync(l => l == "x").WaitAsync(TestMachine.Limit);
        return qemu;
    }
}
