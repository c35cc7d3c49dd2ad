using System.Net;
using System.Net.Sockets;
using Postcopy.Uffd.Qemu;
using Postcopy.Vmm.Guest;
using Postcopy.Vmm.Machine;
using Postcopy.Vmm.Migration;
using Postcopy.Vmm.Qemu;

namespace Postcopy.Vmm.Tests;

/// <summary>A live guest of an unmodified QEMU, taken over by postcopy.</summary>
public sealed class QemuTests(ITestOutputHelper output)
{
    private const int Limit = 90_000;

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
        await using QemuProcess qemu = await QemuProcess.StartAsync(
            new GuestSettings { LongMode = longMode, StartsOthers = vcpus > 1, Fills = true, PagesPerVcpu = 512 }, vcpus, megabytes: 32);
        await Task.WhenAll(Enumerable.Range(0, vcpus).Select(i => qemu.Serial.NextAsync(l => l == $"{i}:00000004"))).WaitAsync(TestMachine.Limit);

        using Socket listener = Listen(out int port);
        await using Incoming incoming = new(kvm, TimeSpan.Zero);
        Task<IncomingReport> receiving = incoming.RunAsync(listener);
        await qemu.MigrateAsync(port, bandwidth: 20 << 20, postcopyBandwidth: 4 << 20);
        IncomingReport report = await receiving;
        using VirtualMachine target = await incoming.Started;
        _ = await target.HeartbeatsAsync();
        string status = await qemu.StatusAsync();

        Assert.Equal("completed", status);
        target.AssertSound();
        for (int i = 0; i < vcpus; i++)
        {
            int last = qemu.Serial.Lines.Where(l => l.StartsWith($"{i}:", StringComparison.Ordinal)).Select(l => Convert.ToInt32(l[2..], 16)).Last();
            Assert.Equal(last + 1, target.Beats(i)[0]);
        }

        output.WriteLine($"{report.From}: {report.Wire}, {report.Completion.Faults}, {report.Completion.Blocktime}");
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
