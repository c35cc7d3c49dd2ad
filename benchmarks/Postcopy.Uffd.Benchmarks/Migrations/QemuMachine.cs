using System.Globalization;
using System.Text.Json.Nodes;
using Postcopy.Uffd.Qemu.Tests.Live;
using Postcopy.Vmm.Machine;
using Postcopy.Vmm.Qemu;

namespace Postcopy.Uffd.Benchmarks.Migrations;

/// <summary>
/// A QEMU under TCG with one block of memory named "mem0", source or destination; it dies with this process. The one on PATH, or the
/// newest, which eng/get-qemu has unpacked.
/// </summary>
internal sealed class QemuMachine : IDisposable
{
    internal const string Program = "qemu-system-x86_64";

    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(60);

    // In a mount namespace of its own, because the content of a source's guest is opened through /proc.
    private const string RunNewest = """
        mkdir -p ROOT/proc
        mount --bind /proc ROOT/proc
        exec chroot ROOT /usr/bin/qemu-system-x86_64 "$@"
        """;

    private readonly string _directory;
    private readonly BoundProcess _process;
    private readonly QmpClient _monitor;

    private QemuMachine(long bytes, string memory, string arguments, bool newest = false)
    {
        string root = newest ? NewestRoot : "";
        _directory = newest
            ? Directory.CreateDirectory($"{root}/tmp/postcopy-lab-{Guid.NewGuid().ToString("N")[..8]}").FullName
            : Directory.CreateTempSubdirectory("postcopy-lab-qemu-").FullName;
        string inside = _directory[root.Length..];
        string program = Program;
        if (newest)
        {
            File.WriteAllText($"{_directory}/run", RunNewest.Replace("ROOT", root, StringComparison.Ordinal));
            program = $"unshare --mount sh {_directory}/run";
        }

        string all = $"{program} -display none -nodefaults -accel tcg -machine pc,memory-backend=mem0 -m {bytes >> 20} " +
            $"-object {memory},id=mem0,size={bytes} -qmp unix:{inside}/qmp,server=on,wait=off -pidfile {inside}/pid {arguments}";
        _process = BoundProcess.Start(all, _directory);
        try
        {
            _monitor = Connect();
            ProcessId = int.Parse(File.ReadAllText($"{_directory}/pid"), CultureInfo.InvariantCulture);
        }
        catch
        {
            End();
            throw;
        }
    }

    internal static bool IsInstalled { get; } =
        (Environment.GetEnvironmentVariable("PATH") ?? "").Split(':').Any(path => File.Exists(Path.Combine(path, Program)));

    internal static bool HasNewest { get; } = Environment.IsPrivilegedProcess && NewestQemu.IsThere;

    internal static string WhyNotNewest => $"the newest QEMU is not in {NewestRoot}, or this is not root: run eng/get-qemu as root";

    internal static string WhyNot => $"{Program} is not installed: apt-get install qemu-system-x86";

    internal static string NewestRoot => NewestQemu.Root;

    internal int ProcessId { get; }

    /// <summary>A guest that has this memory; with a disk its boot sector runs, without one it never starts.</summary>
    internal static QemuMachine Source(GuestContent content, string? disk = null, bool newest = false) => new(
        content.Bytes, $"memory-backend-file,mem-path={content.Path},share=on,prealloc=on", disk is null ? "-S" : $"-drive file={disk},format=raw,if=ide,file.locking=off", newest);

    /// <summary>One that waits for a migration; the guest stands still when it has come.</summary>
    internal static QemuMachine Destination(long bytes, string? disk = null) => new(
        bytes, "memory-backend-ram", $"-S -incoming defer{(disk is null ? "" : $" -drive file={disk},format=raw,if=ide,file.locking=off")}");

    /// <summary>Lets a destination listen; where.</summary>
    internal string Listen(bool preempt)
    {
        SetCapabilities(preempt);
        _ = Execute("migrate-incoming", new JsonObject { ["uri"] = "tcp:127.0.0.1:0" });
        JsonNode address = Migration()["socket-address"]![0]!;
        return $"tcp:127.0.0.1:{address["port"]!.GetValue<string>()}";
    }

    /// <summary>Sends the whole guest by postcopy, at full speed.</summary>
    internal void Migrate(string uri, bool preempt)
    {
        SetCapabilities(preempt);
        // The switch is asked for at once; until QEMU sees that, next to nothing may go out.
        _ = Execute("migrate-set-parameters", new JsonObject { ["max-bandwidth"] = 1_000_000, ["max-postcopy-bandwidth"] = 0 });
        _ = Execute("migrate", new JsonObject { ["uri"] = uri });
        _ = Execute("migrate-start-postcopy");
    }

    /// <summary>Waits for the end; query-migrate's answer.</summary>
    internal JsonNode WaitForCompletion()
    {
        using CancellationTokenSource patience = new(s_patience);
        string[] ends = ["completed", "failed", "cancelled", "postcopy-paused"];
        string status = _monitor.WaitForStatusAsync(ends, patience.Token).GetAwaiter().GetResult();
        JsonNode migration = Migration();
        return status == "completed" ? migration : throw new LabException($"QEMU's migration is '{status}': {migration.ToJsonString()}");
    }

    internal JsonNode? Execute(string command, JsonNode? arguments = null)
    {
        using CancellationTokenSource patience = new(s_patience);
        return _monitor.ExecuteAsync(command, arguments, patience.Token).GetAwaiter().GetResult();
    }

    internal JsonNode Migration() => Execute("query-migrate")!;

    public void Dispose()
    {
        _monitor.Dispose();
        End();
    }

    private QmpClient Connect()
    {
        using CancellationTokenSource patience = new(s_patience);
        while (true)
        {
            try
            {
                return QmpClient.ConnectAsync($"{_directory}/qmp", patience.Token).GetAwaiter().GetResult();
            }
            catch (System.Net.Sockets.SocketException) when (!_process.HasExited && !patience.IsCancellationRequested)
            {
                Thread.Sleep(10);
            }
            catch (System.Net.Sockets.SocketException)
            {
                throw new LabException(_process.HasExited ? $"QEMU does not start: {_process.Errors}" : "QEMU does not open its monitor.");
            }
        }
    }

    private void SetCapabilities(bool preempt) => _ = Execute("migrate-set-capabilities", new JsonObject
    {
        ["capabilities"] = new JsonArray(Capability("postcopy-ram", true), Capability("postcopy-preempt", preempt)),
    });

    private static JsonObject Capability(string name, bool on) => new() { ["capability"] = name, ["state"] = on };

    private void End()
    {
        _process.Dispose();
        Directory.Delete(_directory, recursive: true);
    }
}
