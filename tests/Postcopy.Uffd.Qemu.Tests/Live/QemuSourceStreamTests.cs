using System.Net;
using System.Net.Sockets;
using Postcopy.Uffd.Qemu.Tests.Source;

namespace Postcopy.Uffd.Qemu.Tests.Live;

/// <summary>The reader and the return path against an unmodified QEMU, without userfaultfd: pages go into arrays.</summary>
public sealed class QemuSourceStreamTests
{
    private const int GuestMemory = 64 << 20;
    private const int LoadedAt = 0x100000;
    private static readonly TimeSpan s_limit = TimeSpan.FromSeconds(60);

    [Theory]
    [InlineData("plain", "pc")]
    [InlineData("plain", "q35")]
    [InlineData("plain", "microvm")]
    [InlineData("preempt", "pc")]
    [InlineData("breaks", "pc")]
    [InlineData("compress", "pc")]
    [InlineData("precopy", "pc")]
    [InlineData("xbzrle", "pc")]
    public async Task StoppedGuestArrivesWhole(string variant, string machine)
    {
        Assert.SkipUnless(QemuProcess.IsInstalled, $"{QemuProcess.Binary} is not installed: apt-get install qemu-system-x86");
        byte[] content = new byte[24 << 20];
        new Random(1).NextBytes(content);
        string load = Path.GetTempFileName();
        await File.WriteAllBytesAsync(load, content, TestContext.Current.CancellationToken);
        using QemuProcess qemu = new($"-machine {machine} -m 64 -device loader,file={load},addr={LoadedAt},force-raw=on");
        File.Delete(load);
        byte[] expected = qemu.SaveMemory(GuestMemory);
        Assert.True(expected.AsSpan(LoadedAt, content.Length).SequenceEqual(content));

        using Socket listener = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        listener.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        listener.Listen(4);
        string uri = $"tcp:127.0.0.1:{((IPEndPoint)listener.LocalEndPoint!).Port}";
        SetUp(qemu.Monitor, variant);
        qemu.Monitor.Execute("migrate", $"{{\"uri\": \"{uri}\"}}");
        if (variant is not ("precopy" or "xbzrle"))
        {
            qemu.Monitor.Execute("migrate-start-postcopy");
        }

        TestDestination destination = new() { BreakAfter = variant == "breaks" ? 1000 : int.MaxValue };
        Task? urgent = null;
        for (int connection = 0; connection < (variant == "breaks" ? 3 : 1); connection++)
        {
            using MigrationChannel main = MigrationChannel.FromSocket(listener.Accept());
            main.StallTimeout = TimeSpan.FromSeconds(20);
            if (variant == "preempt")
            {
                urgent = Task.Factory.StartNew(
                    () =>
                    {
                        using MigrationChannel channel = MigrationChannel.FromSocket(listener.Accept());
                        destination.RunUrgent(channel);
                    },
                    TaskCreationOptions.LongRunning);
                _ = Task.Run(() => AskForPages(destination), TestContext.Current.CancellationToken);
            }
            else if (variant is "precopy" or "xbzrle")
            {
                _ = Task.Run(
                    () =>
                    {
                        // Some seconds of precopy, then the switch.
                        Assert.True(SpinWait.SpinUntil(() => destination.PrecopyPages > 3000, s_limit));
                        qemu.Monitor.Execute("migrate-start-postcopy");
                    },
                    TestContext.Current.CancellationToken);
            }

            await Task.Factory.StartNew(() => destination.RunMain(main), TaskCreationOptions.LongRunning).WaitAsync(s_limit, TestContext.Current.CancellationToken);
            if (variant == "breaks" && connection < 2)
            {
                qemu.Monitor.WaitForStatus("postcopy-paused");
                destination.BreakAfter = connection == 0 ? 3000 : int.MaxValue;
                qemu.Monitor.Execute("migrate", $"{{\"uri\": \"{uri}\", \"resume\": true}}");
            }
        }

        qemu.Monitor.WaitForStatus("completed");
        await (urgent ?? Task.CompletedTask).WaitAsync(s_limit, TestContext.Current.CancellationToken);
        Compare(expected, destination);
        Assert.Contains(destination.Package!.Split(), section => section.Name is "cpu" or "timer");
        TestContext.Current.TestOutputHelper?.WriteLine(
            $"{destination.State.MachineType}: {destination.PrecopyPages} precopy, {destination.PostcopyPages} postcopy, {destination.UrgentPages} urgent; "
            + $"package {destination.Package.Bytes.Length} bytes; blocks {string.Join(", ", destination.State.Blocks.Select(b => $"{b.Name} {b.Length:x}"))}");
        if (variant == "preempt")
        {
            Assert.True(destination.UrgentPages > 0);
        }
    }

    private static void SetUp(QmpClient monitor, string variant)
    {
        List<string> capabilities = ["postcopy-ram"];
        switch (variant)
        {
            case "preempt":
                capabilities.Add("postcopy-preempt");
                break;
            case "compress" or "xbzrle":
                capabilities.Add(variant);
                break;
        }

        string list = string.Join(", ", capabilities.Select(c => $"{{\"capability\": \"{c}\", \"state\": true}}"));
        monitor.Execute("migrate-set-capabilities", $"{{\"capabilities\": [{list}]}}");
        monitor.Execute("migrate-set-parameters", $"{{\"max-bandwidth\": 10000000, \"max-postcopy-bandwidth\": {(variant == "preempt" ? 30000000 : 0)}}}");
    }

    private static void AskForPages(TestDestination destination)
    {
        if (destination.Running.Wait(s_limit))
        {
            StreamRamBlock ram = destination.State.Blocks.First(b => b.Length == GuestMemory);
            for (int i = 0; i < 8; i++)
            {
                destination.Writer?.TryRequestPages(ram, GuestMemory - ((i + 1) << 20), 4096);
            }
        }
    }

    private static void Compare(byte[] expected, TestDestination destination)
    {
        StreamRamBlock ram = destination.State.Blocks.First(b => b.Length == GuestMemory);
        byte[] actual = destination.Content(ram);
        // Between 640 KiB and 1 MiB the address space shows ROMs, not this block.
        const int HoleStart = 0xa0000;
        Assert.True(actual.AsSpan(0, HoleStart).SequenceEqual(expected.AsSpan(0, HoleStart)));
        Assert.True(actual.AsSpan(LoadedAt).SequenceEqual(expected.AsSpan(LoadedAt)));
    }
}
