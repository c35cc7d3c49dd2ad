using System.Net;
using System.Net.Sockets;
using Postcopy.Uffd.Qemu.Tests.Source;

namespace Postcopy.Uffd.Qemu.Tests.Live;

public sealed class VmDescriptionLiveTests
{
    [Theory]
    [InlineData("pc", true)]
    [InlineData("q35", true)]
    [InlineData("microvm", true)]
    [InlineData("none", false)]
    public async Task DescriptionOfASavedGuestSplitsThePackageOfAMigratedOne(string machine, bool hasCpu)
    {
        Assert.SkipUnless(QemuProcess.IsInstalled, $"{QemuProcess.Binary} is not installed: apt-get install qemu-system-x86");
        VmDescription description = Save(machine);
        DevicePackage package = await Migrate(machine);
        IReadOnlyList<DeviceSection> sections = package.Split(description);
        Assert.Equal(
            package.Split().Select(s => (s.Name, s.Instance, s.Body.Length)),
            sections.Select(s => (s.Name, s.Instance, s.Body.Length)));
        Assert.Equal(4096, description.PageSize);
        Assert.Equal(hasCpu, sections.Any(s => s.Name == "cpu" && s.Version == 12 && s.Body.Length >= 1817));
        TestContext.Current.TestOutputHelper?.WriteLine(string.Join(", ", sections.Select(s => $"{s.Name}/{s.Instance} v{s.Version} {s.Body.Length}")));
    }

    private static VmDescription Save(string machine)
    {
        using QemuProcess qemu = new($"-machine {machine} -m 16");
        string file = Path.Combine(qemu.Directory, "saved");
        qemu.Monitor.Execute("migrate", $"{{\"uri\": \"exec:cat > {file}\"}}");
        qemu.Monitor.WaitForStatus("completed");

        // The child process writes on for a moment after QEMU has handed it the last byte.
        VmDescription? description = null;
        Assert.True(SpinWait.SpinUntil(() => (description = TryParse(file)) is not null, TimeSpan.FromSeconds(10)));
        return description!;
    }

    private static VmDescription? TryParse(string file)
    {
        try
        {
            return VmDescription.ParseTrailing(File.ReadAllBytes(file));
        }
        catch (MigrationStreamException)
        {
            return null;
        }
    }

    private static async Task<DevicePackage> Migrate(string machine)
    {
        using QemuProcess qemu = new($"-machine {machine} -m 16");
        using Socket listener = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        listener.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        listener.Listen(1);
        qemu.Monitor.Execute("migrate-set-capabilities", "{\"capabilities\": [{\"capability\": \"postcopy-ram\", \"state\": true}]}");
        qemu.Monitor.Execute("migrate-set-parameters", "{\"max-bandwidth\": 50000}");
        qemu.Monitor.Execute("migrate", $"{{\"uri\": \"tcp:127.0.0.1:{((IPEndPoint)listener.LocalEndPoint!).Port}\"}}");
        qemu.Monitor.Execute("migrate-start-postcopy");
        using MigrationChannel main = MigrationChannel.FromSocket(listener.Accept());
        TestDestination destination = new();
        await Task.Factory.StartNew(() => destination.RunMain(main), TaskCreationOptions.LongRunning).WaitAsync(TimeSpan.FromSeconds(60));
        qemu.Monitor.WaitForStatus("completed");
        return destination.Package!;
    }
}
