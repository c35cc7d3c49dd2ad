using System.Net;
using System.Net.Sockets;
using System.Security.Cryptography;
using System.Text.Json;
using Postcopy.Uffd.Qemu.Tests.Live;

namespace Postcopy.Destination.Tests;

/// <summary>docs/qemu.md from start to finish: the sample as a user runs it, and a real QEMU with the monitor's commands of that page.</summary>
public sealed class FromQemuTests : IDisposable
{
    private const int Limit = 120_000;
    private const int Memory = 64 << 20;
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(60);
    private readonly string _folder = Directory.CreateTempSubdirectory("postcopy-test-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Theory(Timeout = Limit)]
    [InlineData("plain", false)]
    [InlineData("plain", true)]
    [InlineData("tls preempt", false)]
    [InlineData("tls preempt", true)]
    [InlineData("unix recovery", false)]
    [InlineData("unix recovery", true)]
    public async Task TheGuestArrivesAndTheReportIsQemus(string kind, bool newest)
    {
        QemuProcess.SkipUnlessThere(newest);
        using QemuProcess qemu = Guest(newest);
        bool tls = kind.Contains("tls", StringComparison.Ordinal);
        bool recovery = kind.Contains("recovery", StringComparison.Ordinal);
        (string listen, string uri) = Address(qemu, kind.Contains("unix", StringComparison.Ordinal));
        List<string> options = ["--listen", listen, "--vcpus", "2", "--hash-file", In("hashes"), "--package-file", In("package"), "--report", recovery ? "hmp" : "json", "--report-file", In("report")];
        if (tls)
        {
            _ = Certificates.Write(qemu.Directory);
            options.AddRange(["--tls-cert", Pem("server-cert"), "--tls-key", Pem("server-key"), "--tls-ca", Pem("ca-cert")]);
            Type(qemu, $"object_add tls-creds-x509,id=tls0,dir={qemu.Inside},endpoint=client", "migrate_set_parameter tls-creds tls0");
        }

        string[] commands = [.. ReadmeCommands().Select(c => c.Replace("tcp:127.0.0.1:4444", uri, StringComparison.Ordinal))];
        Type(qemu, commands[..1]);
        if (kind.Contains("preempt", StringComparison.Ordinal))
        {
            // Refused before the first of them.
            options.Add("--preempt");
            Type(qemu, "migrate_set_capability postcopy-preempt on");
        }

        // So slow that there is something to break, or at least to ask for: at full speed a busy machine's threads come too late.
        Type(qemu, $"migrate_set_parameter max-postcopy-bandwidth {(recovery ? "5M" : "100M")}");
        options.AddRange(recovery ? ["--recover-timeout", "60"] : []);
        using SampleProcess sample = SampleProcess.Start([.. options]);
        await sample.WaitForAsync("waiting for a source", s_patience);
        Type(qemu, commands[1..]);
        if (recovery)
        {
            await sample.WaitForAsync("switched to postcopy", s_patience);
            qemu.Monitor.WaitForStatus("postcopy-active");
            Type(qemu, "migrate_pause");
            qemu.Monitor.WaitForStatus("postcopy-paused");
            Type(qemu, "migrate_set_parameter max-postcopy-bandwidth 0", $"migrate -d -r {uri}");
        }

        Assert.True(await sample.ExitAsync(s_patience) == 0, sample.Error);
        qemu.Monitor.WaitForStatus("completed");
        string hash = Convert.ToHexStringLower(SHA256.HashData(await File.ReadAllBytesAsync(Path.Combine(qemu.Directory, "content"), TestContext.Current.CancellationToken)));
        Assert.Contains($"{hash}  mem0", await File.ReadAllLinesAsync(In("hashes"), TestContext.Current.CancellationToken));
        Assert.Equal([8, 0, 4, 0, 0], (await File.ReadAllBytesAsync(In("package"), TestContext.Current.CancellationToken))[..5]);
        Assert.False(listen.StartsWith("unix:", StringComparison.Ordinal) && File.Exists(listen[5..]));
        string written = await File.ReadAllTextAsync(In("report"), TestContext.Current.CancellationToken);
        if (recovery)
        {
            Assert.StartsWith("Status: \t\tcompleted\nTime (ms): \t\ttotal=", written, StringComparison.Ordinal);
            Assert.Matches(@"Postcopy vCPU Blocktime \(ms\):\n \[\d+, \d+\]\n", written);
            return;
        }

        using JsonDocument report = JsonDocument.Parse(written);
        Assert.Equal("completed", report.RootElement.GetProperty("status").GetString());
        JsonElement ram = report.RootElement.GetProperty("ram");
        JsonElement source = qemu.Monitor.Execute("query-migrate").GetProperty("ram");
        Assert.Equal(source.GetProperty("total").GetInt64(), ram.GetProperty("total").GetInt64());
        Assert.True(ram.GetProperty("postcopy-requests").GetInt64() > 0);
        Assert.Equal(2, report.RootElement.GetProperty("postcopy-vcpu-blocktime").GetArrayLength());

        string Pem(string name) => Path.Combine(qemu.Directory, $"{name}.pem");
    }

    /// <summary>What breaks before the switch ends the sample at once, whatever the recover time-out.</summary>
    [Fact(Timeout = Limit)]
    public async Task AMigrationThatIsCancelledBeforeTheSwitchIsReportedAsTheSources()
    {
        QemuProcess.SkipUnlessThere(newest: false);
        using QemuProcess qemu = Guest(newest: false);
        (string listen, string uri) = Address(qemu, unix: true);
        using SampleProcess sample = SampleProcess.Start("--listen", listen, "--recover-timeout", "60");
        await sample.WaitForAsync("waiting for a source", s_patience);
        Type(qemu, [.. ReadmeCommands()[..3].Select(c => c.Replace("tcp:127.0.0.1:4444", uri, StringComparison.Ordinal))]);
        await sample.WaitForAsync("% of ", s_patience);
        Type(qemu, "migrate_cancel");
        Assert.Equal(1, await sample.ExitAsync(s_patience));
        Assert.Contains("The guest goes on at the source.", sample.Error, StringComparison.Ordinal);
        Assert.False(File.Exists(listen[5..]));
    }

    /// <summary>A stopped guest whose memory is a file: all of it can be compared, what the address space hides too.</summary>
    private static QemuProcess Guest(bool newest)
    {
        byte[] content = new byte[Memory];
        new Random(1).NextBytes(content.AsSpan(Memory / 2));
        return new QemuProcess($"-machine pc,memory-backend=mem0 -object memory-backend-file,id=mem0,size=64M,mem-path=@DIR@/content,share=on -m 64", newest, content: content);
    }

    private static (string Listen, string Uri) Address(QemuProcess qemu, bool unix)
    {
        if (unix)
        {
            return ($"unix:{qemu.Directory}/socket", $"unix:{qemu.Inside}/socket");
        }

        using Socket free = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        free.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        string address = $"tcp:127.0.0.1:{((IPEndPoint)free.LocalEndPoint!).Port}";
        return (address, address);
    }

    private static void Type(QemuProcess qemu, params string[] commands)
    {
        foreach (string command in commands)
        {
            string answer = qemu.Monitor.Execute("human-monitor-command", $"{{\"command-line\": {JsonSerializer.Serialize(command)}}}").GetString()!;
            Assert.True(answer.Length == 0, $"{command}: {answer}");
        }
    }

    /// <summary>The four that README shows.</summary>
    private static string[] ReadmeCommands()
    {
        string folder = AppContext.BaseDirectory;
        while (!File.Exists(Path.Combine(folder, "Postcopy.Uffd.sln")))
        {
            folder = Path.GetDirectoryName(folder)!;
        }

        string[] commands = [.. File.ReadLines(Path.Combine(folder, "README.md"))
            .SkipWhile(line => line != "## From QEMU").SkipWhile(line => line != "```text").Skip(1).TakeWhile(line => line != "```")];
        Assert.Equal(4, commands.Length);
        return commands;
    }

    private string In(string name) => Path.Combine(_folder, name);
}
