using System.Net;
using System.Net.Sockets;
using Postcopy.Vmm.Guest;
using Postcopy.Vmm.Machine;
using Postcopy.Vmm.Qemu;

namespace Postcopy.Vmm.Tests;

/// <summary>What the tests do with a guest that begins in QEMU.</summary>
internal static class QemuGuest
{
    /// <summary>A precopy that is over before migrate-start-postcopy is heard cannot be received (qemu-wire.md 3.3).</summary>
    internal const long SlowPrecopy = 64 << 10;

    /// <summary>Boots our guest; each of its vCPUs has printed some heartbeats.</summary>
    internal static async Task<QemuProcess> BootAsync(int vcpus, bool longMode, string? root)
    {
        GuestSettings guest = new() { LongMode = longMode, StartsOthers = vcpus > 1, Fills = true, PagesPerVcpu = 512 };
        QemuProcess qemu = await QemuProcess.StartAsync(guest.Image(), vcpus, megabytes: 32, root);
        await Task.WhenAll(Enumerable.Range(0, vcpus).Select(i => qemu.Serial.NextAsync(l => l == $"{i}:00000004"))).WaitAsync(TestMachine.Limit);
        return qemu;
    }

    /// <summary>QEMU is done, and no page and no heartbeat is lost.</summary>
    internal static async Task AssertTakenOverAsync(QemuProcess qemu, VirtualMachine target)
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

    internal static Socket Listen(out int port)
    {
        Socket listener = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        listener.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        listener.Listen();
        port = ((IPEndPoint)listener.LocalEndPoint!).Port;
        return listener;
    }
}
