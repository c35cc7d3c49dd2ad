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

    // A precopy that is over before migrate-start-postcopy is heard cannot be received (qemu-wire.md 3.3).
    private const long SlowPrecopy = 64 << 10;

    [Theory(Timeout = Limit)]
    [InlineData(1, false)]
    [InlineData(1, true)]
    [InlineData(2, true)]
    [InlineData(4, true)]
    public async Task AGuestOfQemuGoesOnHereFromTheNextCount(int vcpus, bool longMode)
    {
        using KvmSystem kvm = Requires.Kvm();
        Requires.Userfaultfd();
        Requires.Tool(QemuProcess.Program, "qemu-system-x86");
        await using QemuProcess qemu = await BootAsync(vcpus, longMode);

        using Socket listener = Listen(out int port);
        await using Incoming incoming = new(kvm, TimeSpan.Zero);
        Task<IncomingReport> receiving = incoming.RunAsync(listener);
        await qemu.MigrateAsync(port, bandwidth: SlowPrecopy, postcopyBandwidth: 4 << 20);
        IncomingReport report = await receiving;
        using VirtualMachine target = await incoming.Started;
        _ = await target.HeartbeatsAsync();

        await AssertTakenOverAsync(qemu, target);
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
        Requires.Tool(QemuProcess.Program, "qemu-system-x86");
        await using QemuProcess qemu = await BootAsync(vcpus: 2, longMode: true);
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

            using Socket listener = Listen(out int port);
            await using Incoming incoming = new(kvm, TimeSpan.Zero, description);
            Task<IncomingReport> receiving = incoming.RunAsync(listener, limit.Token);
            await qemu.MigrateAsync(port, bandwidth: SlowPrecopy, postcopyBandwidth: 0);
            IncomingReport report = await receiving;
            using VirtualMachine target = await incoming.Started;

            Assert.False(target.IsRunning);
            Assert.Equal(0, report.Completion.Faults.Requests);
            target.Start();
            _ = await target.HeartbeatsAsync();
            await AssertTakenOverAsync(qemu, target);
        }
        finally
        {
            File.Delete(saved);
        }
    }

    [Theory(Timeout = Limit)]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(4)]
    public async Task AConnectionFromQemuThatBreaksIsMadeAnew(int vcpus)
    {
        using KvmSystem kvm = Requires.Kvm();
        Requires.Userfaultfd();
        Requires.Tool(QemuProcess.Program, "qemu-system-x86");
        await using QemuProcess qemu = await BootAsync(vcpus, longMode: true);

        using CancellationTokenSource limit = new(TestMachine.Limit);
        using Socket listener = Listen(out int port);
        await using Incoming incoming = new(kvm, recoverTimeout: TestMachine.Limit);
        Task<IncomingReport> receiving = incoming.RunAsync(listener);
        await qemu.MigrateAsync(port, bandwidth: SlowPrecopy, postcopyBandwidth: 4 << 20);
        using VirtualMachine target = await incoming.Started.WaitAsync(limit.Token);
        incoming.BreakConnection();
        await qemu.ResumeAsync(port, limit.Token);
        IncomingReport report = await receiving;
        _ = await target.HeartbeatsAsync();

        Assert.Equal(1, report.Wire.LostConnections);
        await AssertTakenOverAsync(qemu, target);
    }

    /// <summary>
    /// QEMU 7.2 knows no point of no return; as nothing ran here, its operator may cancel and let the guest go on.
    /// </summary>
    [Fact(Timeout = Limit)]
    public async Task ACpuThatCannotGoOnHereIsRefusedAndGoesOnInQemu()
    {
        using KvmSystem kvm = Requires.Kvm();
        Requires.Userfaultfd();
        Requires.Tool(QemuProcess.Program, "qemu-system-x86");

        // sti; mov dx, 0x3f8; mov al, 'x'; out; mov al, 10; out; then a while of nothing, and again.
        byte[] sector = new byte[512];
        byte[] code = [0xfb, 0xba, 0xf8, 0x03, 0xb0, 0x78, 0xee, 0xb0, 0x0a, 0xee, 0x31, 0xc9, 0x49, 0x75, 0xfd, 0xeb, 0xf0];
        code.CopyTo(sector, 0);
        sector[510] = 0x55;
        sector[511] = 0xaa;
        await using QemuProcess qemu = await QemuProcess.StartAsync(sector, vcpus: 1, megabytes: 32);
        await qemu.Serial.NextAsync(l => l == "x").WaitAsync(TestMachine.Limit);

        using Socket listener = Listen(out int port);
        using CancellationTokenSource limit = new(TestMachine.Limit);
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
        await qemu.MigrateAsync(port, bandwidth: SlowPrecopy, postcopyBandwidth: 4 << 20);
        migrating.SetResult();
        VmmException refused = await Assert.ThrowsAsync<VmmException>(() => receiving);

        Assert.Contains("it has interrupts enabled", refused.Message, StringComparison.Ordinal);
        Assert.False(incoming.Started.IsCompletedSuccessfully);
        await qemu.Serial.NextAsync(l => l == "x").WaitAsync(TestMachine.Limit);
    }

    private static async Task<QemuProcess> BootAsync(int vcpus, bool longMode)
    {
        GuestSettings guest = new() { LongMode = longMode, StartsOthers = vcpus > 1, Fills = true, PagesPerVcpu = 512 };
        QemuProcess qemu = await QemuProcess.StartAsync(guest.Image(), vcpus, megabytes: 32);
        await Task.WhenAll(Enumerable.Range(0, vcpus).Select(i => qemu.Serial.NextAsync(l => l == $"{i}:00000004"))).WaitAsync(TestMachine.Limit);
        return qemu;
    }

    private static async Task AssertTakenOverAsync(QemuProcess qemu, VirtualMachine target)
    {
        Assert.Equal("completed", await qemu.Monitor.StatusAsync());
        target.AssertSound();
        string[] lines = Heartbeat.Join(qemu.Serial, target.Serial.Lines);
        foreach (Vcpu vcpu in target.Vcpus)
        {
            int[] beats = Heartbeat.Of(vcpu.Index, lines);
            Assert.Equal(Enumerable.Range(1, beats.Length), beats);
            Assert.True(beats.Length > Heartbeat.Of(vcpu.Index, qemu.Serial.Lines).Length);
        }
    }

    private static Socket Listen(out int port)
    {
        Socket listener = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        listener.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        listener.Listen();
        port = ((IPEndPoint)listener.LocalEndPoint!).Port;
        return listener;
    }
}
