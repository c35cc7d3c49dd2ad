using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using System.Text.Json;

namespace Postcopy.Destination.Tests;

public sealed partial class MigrationRunTests : IDisposable
{
    private const int Limit = 120_000;
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(30);

    private readonly string _folder = Directory.CreateTempSubdirectory("postcopy-test-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Theory(Timeout = Limit)]
    [InlineData("anonymous")]
    [InlineData("memfd")]
    public async Task TheWholeMigrationRunsAndEveryPageIsRight(string kind)
    {
        string hashes = Path.Combine(_folder, "hashes");
        (int exit, _, string error) = await SampleProcess.RunAsync("--memory", "32M", "--memory-kind", kind, "--seed", "7", "--hash-file", hashes);
        Assert.True(exit == 0, error);
        Assert.Contains("content: all 8224 pages are right", error, StringComparison.Ordinal);
        string[] lines = await File.ReadAllLinesAsync(hashes);
        Assert.Equal(2, lines.Length);
        Assert.Matches("^[0-9a-f]{64}  pc.ram$", lines[0]);
        Assert.Matches("^[0-9a-f]{64}  pc.rom$", lines[1]);
    }

    [Fact(Timeout = Limit)]
    public async Task HashesDependOnTheSeedAlone()
    {
        string[] files = [Path.Combine(_folder, "a"), Path.Combine(_folder, "b"), Path.Combine(_folder, "c")];
        Assert.Equal(0, (await SampleProcess.RunAsync("--memory", "8M", "--seed", "1", "--vcpus", "0", "--bandwidth", "0", "--hash-file", files[0])).Exit);
        Assert.Equal(0, (await SampleProcess.RunAsync("--memory", "8M", "--seed", "1", "--vcpus", "4", "--hash-file", files[1])).Exit);
        Assert.Equal(0, (await SampleProcess.RunAsync("--memory", "8M", "--seed", "2", "--bandwidth", "0", "--hash-file", files[2])).Exit);
        Assert.Equal(await File.ReadAllTextAsync(files[0]), await File.ReadAllTextAsync(files[1]));
        Assert.NotEqual(await File.ReadAllTextAsync(files[0]), await File.ReadAllTextAsync(files[2]));
    }

    [Fact(Timeout = Limit)]
    public async Task TheJsonReportHasQueryMigratesMembersAndTotalIsAtMostEachVcpu()
    {
        string report = Path.Combine(_folder, "report.json");
        (int exit, string output, string error) = await SampleProcess.RunAsync("--memory", "32M", "--vcpus", "3", "--report", "json", "--report-file", report);
        Assert.True(exit == 0, error);
        Assert.Equal(string.Empty, output);
        using JsonDocument json = JsonDocument.Parse(await File.ReadAllTextAsync(report));
        long total = json.RootElement.GetProperty("postcopy-blocktime").GetInt64();
        long[] vcpus = [.. json.RootElement.GetProperty("postcopy-vcpu-blocktime").EnumerateArray().Select(v => v.GetInt64())];
        Assert.Equal(3, vcpus.Length);
        Assert.All(vcpus, v => Assert.True(v > 0 && total <= v, $"total {total} ms, vCPU {v} ms"));
        Assert.Equal(24, json.RootElement.GetProperty("postcopy-latency-dist").GetArrayLength());
    }

    [Fact(Timeout = Limit)]
    public async Task InAPidNamespaceOfItsOwnEachStallBelongsToItsVcpu()
    {
        // As in a container: the kernel reports threads by the numbers that they have in there (H25).
        Assert.SkipUnless(Environment.IsPrivilegedProcess, "A pid namespace needs root: run the tests as root.");
        Assert.SkipUnless(File.Exists("/usr/bin/unshare"), "unshare is missing: apt-get install util-linux.");
        string report = Path.Combine(_folder, "report.json");
        using SampleProcess sample = SampleProcess.Start("/usr/bin/unshare", ["--pid", "--fork", "--mount-proc", "--kill-child",
            SampleProcess.Program, "--memory", "16M", "--report", "json", "--report-file", report]);
        int exit = await sample.ExitAsync(s_patience);
        Assert.True(exit == 0, sample.Error);
        using JsonDocument json = JsonDocument.Parse(await File.ReadAllTextAsync(report));
        JsonElement own = json.RootElement.GetProperty("postcopy-uffd");
        Assert.Equal(0, own.GetProperty("other-latency").GetProperty("count").GetInt64());
        JsonElement[] vcpus = [.. own.GetProperty("vcpus").EnumerateArray()];
        Assert.Equal(2, vcpus.Length);
        Assert.All(vcpus, v => Assert.NotEqual(0, v.GetProperty("episodes").GetInt64()));

        // Process 1 and its first threads: nowhere near the numbers out here.
        Assert.All(vcpus, v => Assert.InRange(v.GetProperty("thread-id").GetInt64(), 2, 200));
    }

    [Fact(Timeout = Limit)]
    public async Task NothingHangsWhileAThreadCollectsGarbageWithoutPause()
    {
        (int exit, _, string error) = await SampleProcess.RunAsync("--memory", "48M", "--vcpus", "4", "--gc-pressure");
        Assert.True(exit == 0, error);
        Assert.Contains("garbage collections were forced", error, StringComparison.Ordinal);
    }

    [Fact(Timeout = Limit)]
    public async Task AnOrdinaryUserRunsItAndIsToldOfUserModeOnly()
    {
        Assert.SkipUnless(Environment.IsPrivilegedProcess, "Changing to an ordinary user needs root: run the tests as root.");
        Assert.SkipUnless(File.Exists("/usr/bin/setpriv"), "setpriv is missing: apt-get install util-linux.");

        // The user must be able to read the program, and has a folder for its socket.
        string program = Path.Combine(_folder, "program");
        CopyFolder(AppContext.BaseDirectory, program);
        Open(_folder);
        string[] arguments = ["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all",
            Path.Combine(program, "postcopy-destination"), "--memory", "16M"];
        using SampleProcess sample = SampleProcess.Start("/usr/bin/setpriv", arguments, temporary: _folder);
        int exit = await sample.ExitAsync(s_patience);
        Assert.True(exit == 0, sample.Error);
        Assert.Contains("user mode only", sample.Error, StringComparison.Ordinal);
        Assert.Contains("wrong for a KVM guest", sample.Error, StringComparison.Ordinal);
    }

    [Fact(Timeout = Limit)]
    public async Task CtrlCEndsItCleanlyAndLeavesNoProcessAndNoSocket()
    {
        using SampleProcess sample = SampleProcess.Start(SampleProcess.Program, ["--memory", "256M", "--bandwidth", "1M", "--vcpus", "1"], temporary: _folder);
        await sample.WaitForAsync("switched to postcopy", s_patience);
        int[] children = ChildrenOf(sample.Id);
        Assert.Single(children);
        Assert.Equal(0, Kill(sample.Id, 2));
        Assert.Equal(130, await sample.ExitAsync(s_patience));
        Assert.All(children, child => Assert.False(Directory.Exists($"/proc/{child}"), $"the source {child} still runs"));
        Assert.Empty(Directory.GetFileSystemEntries(_folder));
    }

    [Theory(Timeout = Limit)]
    [InlineData("garbage", "expected magic 0x5145564d")]
    [InlineData("close", "no source came")]
    [InlineData("truncated", "phase")]
    public async Task ASourceThatMisbehavesIsNamed(string behaviour, string message)
    {
        string path = Path.Combine(_folder, "socket");
        using SampleProcess sample = SampleProcess.Start("--listen", $"unix:{path}", "--timeout", "4");
        await sample.WaitForAsync("waiting for a source", s_patience);
        using (Socket socket = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified))
        {
            await socket.ConnectAsync(new UnixDomainSocketEndPoint(path));
            byte[] bytes = behaviour switch
            {
                "garbage" => [0x47, 0x45, 0x54, 0x20, 0x2f, 0x0d, 0x0a],
                "truncated" => [0x51, 0x45, 0x56, 0x4d, 0, 0, 0, 3, 7, 0, 0],
                _ => [],
            };
            _ = await socket.SendAsync(bytes);
            socket.Shutdown(SocketShutdown.Send);
            if (behaviour != "truncated")
            {
                // A stranger is turned away, and the wait for a source goes on until its time is over.
                Assert.Equal(0, await socket.ReceiveAsync(new byte[1]));
                message = "no source came";
            }

            Assert.Equal(1, await sample.ExitAsync(s_patience));
        }

        Assert.Contains(message, sample.Error, StringComparison.Ordinal);
        Assert.False(File.Exists(path));
    }

    [Fact(Timeout = Limit)]
    public async Task AStalledSourceIsGivenUpAndTheMissingPagesAreNamed()
    {
        using SampleProcess sample = SampleProcess.Start(SampleProcess.Program, ["--memory", "64M", "--bandwidth", "1M", "--vcpus", "0", "--timeout", "5"], temporary: _folder);
        await sample.WaitForAsync("switched to postcopy", s_patience);
        int source = Assert.Single(ChildrenOf(sample.Id));
        Assert.Equal(0, Kill(source, 19));
        Assert.Equal(1, await sample.ExitAsync(s_patience));
        Assert.Matches(@"\d+ pages are missing, the first at offset 0x[0-9a-f]+ of RAM block 'pc.ram'", sample.Error);
        Assert.False(Directory.Exists($"/proc/{source}"));
    }

    [Fact(Timeout = Limit)]
    public async Task ASourceKilledInTheMiddleIsReportedWithWhatIsMissing()
    {
        using SampleProcess sample = SampleProcess.Start(SampleProcess.Program, ["--memory", "64M", "--bandwidth", "1M", "--vcpus", "2"], temporary: _folder);
        await sample.WaitForAsync("switched to postcopy", s_patience);
        Assert.Equal(0, Kill(Assert.Single(ChildrenOf(sample.Id)), 9));
        Assert.Equal(1, await sample.ExitAsync(s_patience));
        Assert.Contains("pages are missing", sample.Error, StringComparison.Ordinal);
    }

    [Fact(Timeout = Limit)]
    public async Task ATcpPortInUseIsAnErrorAndNotAStackTrace()
    {
        using Socket taken = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        taken.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        taken.Listen();
        int port = ((IPEndPoint)taken.LocalEndPoint!).Port;
        (int exit, _, string error) = await SampleProcess.RunAsync("--listen", string.Create(CultureInfo.InvariantCulture, $"tcp:127.0.0.1:{port}"));
        Assert.Equal(1, exit);
        Assert.Contains("error:", error, StringComparison.Ordinal);
        Assert.DoesNotContain("   at ", error, StringComparison.Ordinal);
    }

    private static int[] ChildrenOf(int process) =>
        [.. File.ReadAllText($"/proc/{process}/task/{process}/children").Split(' ', StringSplitOptions.RemoveEmptyEntries)
            .Concat(Directory.GetDirectories($"/proc/{process}/task").SelectMany(t => File.ReadAllText($"{t}/children").Split(' ', StringSplitOptions.RemoveEmptyEntries)))
            .Select(s => int.Parse(s, CultureInfo.InvariantCulture)).Distinct()];

    private static void CopyFolder(string from, string to)
    {
        Directory.CreateDirectory(to);
        foreach (string file in Directory.GetFiles(from))
        {
            File.Copy(file, Path.Combine(to, Path.GetFileName(file)));
        }
    }

    private static void Open(string folder)
    {
        foreach (string entry in Directory.EnumerateFileSystemEntries(folder, "*", SearchOption.AllDirectories).Append(folder))
        {
            File.SetUnixFileMode(entry, (UnixFileMode)511);
        }
    }

    [LibraryImport("libc", EntryPoint = "kill", SetLastError = true)]
    private static partial int Kill(int process, int signal);
}
