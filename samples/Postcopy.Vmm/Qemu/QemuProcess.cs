using System.Diagnostics;
using System.Globalization;
using System.Text.Json.Nodes;
using Postcopy.Vmm.Machine;

namespace Postcopy.Vmm.Qemu;

/// <summary>An unmodified QEMU with our guest in it: TCG, machine pc, a disk whose boot sector is the guest.</summary>
internal sealed class QemuProcess : IAsyncDisposable
{
    internal const string Program = "qemu-system-x86_64";

    private static readonly TimeSpan s_startLimit = TimeSpan.FromSeconds(60);

    private readonly Process _process;
    private readonly string _directory;

    private QemuProcess(Process process, QmpClient monitor, SerialPort serial, string directory)
    {
        _process = process;
        Monitor = monitor;
        Serial = serial;
        _directory = directory;
    }

    /// <summary>True when it is found on PATH.</summary>
    internal static bool IsInstalled => (Environment.GetEnvironmentVariable("PATH") ?? string.Empty)
        .Split(':', StringSplitOptions.RemoveEmptyEntries).Any(folder => File.Exists(Path.Combine(folder, Program)));

    internal QmpClient Monitor { get; }

    /// <summary>What the guest prints.</summary>
    internal SerialPort Serial { get; }

    /// <summary>Starts QEMU and a guest.</summary>
    /// <param name="guest">The first sectors of the disk.</param>
    /// <param name="vcpus">How many CPUs.</param>
    /// <param name="megabytes">Memory.</param>
    /// <param name="root">A directory tree with another QEMU in it (eng/get-qemu makes one), run by chroot; null for the one on PATH.</param>
    /// <param name="cancellationToken">Gives up.</param>
    internal static async Task<QemuProcess> StartAsync(byte[] guest, int vcpus, int megabytes, string? root = null, CancellationToken cancellationToken = default)
    {
        string directory = root is null
            ? Directory.CreateTempSubdirectory("postcopy-vmm-").FullName
            : Directory.CreateDirectory($"{root}/tmp/postcopy-vmm-{Guid.NewGuid():N}").FullName;
        string inside = directory[(root?.Length ?? 0)..];
        string disk = Path.Combine(directory, "guest.img");
        byte[] image = new byte[1 << 20];
        guest.CopyTo(image, 0);
        await File.WriteAllBytesAsync(disk, image, cancellationToken);
        Process process = new()
        {
            StartInfo = new ProcessStartInfo(root is null ? Program : "chroot")
            {
                RedirectStandardOutput = true,
                RedirectStandardError = true,
                UseShellExecute = false,
            },
        };
        string[] arguments =
        [
            .. root is null ? (string[])[] : [root, Program],
            "-machine", "pc", "-accel", "tcg", "-smp", vcpus.ToString(CultureInfo.InvariantCulture), "-m", megabytes.ToString(CultureInfo.InvariantCulture),
            "-nodefaults", "-display", "none", "-drive", $"file={inside}/guest.img,format=raw,if=ide", "-serial", "stdio",
            "-chardev", $"socket,id=qmp,path={inside}/qmp,server=on,wait=on", "-mon", "chardev=qmp,mode=control",
        ];
        foreach (string argument in arguments)
        {
            process.StartInfo.ArgumentList.Add(argument);
        }

        SerialPort serial = new();
        TaskCompletionSource listening = new(TaskCreationOptions.RunContinuationsAsynchronously);
        List<string> said = [];
        process.ErrorDataReceived += (_, e) =>
        {
            // "QEMU waiting for connection on: ..." comes when the socket listens; warnings may come before it.
            if (e.Data is null)
            {
                _ = listening.TrySetException(new VmmException($"{Program} does not start: {string.Join(' ', said)}"));
            }
            else if (e.Data.Contains("waiting for connection", StringComparison.Ordinal))
            {
                _ = listening.TrySetResult();
            }
            else
            {
                said.Add(e.Data);
            }
        };
        _ = process.Start();
        process.BeginErrorReadLine();
        _ = Task.Factory.StartNew(() => ReadSerial(process, serial), CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default);
        try
        {
            await listening.Task.WaitAsync(s_startLimit, cancellationToken);
            QmpClient monitor = await QmpClient.ConnectAsync(Path.Combine(directory, "qmp"), cancellationToken);
            return new QemuProcess(process, monitor, serial, directory);
        }
        catch
        {
            process.Kill();
            process.Dispose();
            Directory.Delete(directory, recursive: true);
            throw;
        }
    }

    /// <summary>Starts a migration that switches to postcopy at once.</summary>
    /// <param name="port">Where the destination listens on this host.</param>
    /// <param name="bandwidth">Bytes a second in precopy.</param>
    /// <param name="postcopyBandwidth">Bytes a second in postcopy; QEMU holds requested pages back by it too. 0 is unlimited.</param>
    /// <param name="cancellationToken">Gives up.</param>
    internal async Task MigrateAsync(int port, long bandwidth, long postcopyBandwidth, CancellationToken cancellationToken = default)
    {
        await PrecopyAsync(port, bandwidth, postcopyBandwidth, cancellationToken);
        _ = await Monitor.ExecuteAsync("migrate-start-postcopy", null, cancellationToken);
    }

    /// <summary>Starts a migration that may switch to postcopy.</summary>
    internal async Task PrecopyAsync(int port, long bandwidth, long postcopyBandwidth, CancellationToken cancellationToken = default)
    {
        _ = await Monitor.ExecuteAsync("migrate-set-capabilities", new JsonObject
        {
            ["capabilities"] = new JsonArray(Capability("postcopy-ram"), Capability("postcopy-preempt")),
        }, cancellationToken);
        _ = await Monitor.ExecuteAsync("migrate-set-parameters", new JsonObject { ["max-bandwidth"] = bandwidth, ["max-postcopy-bandwidth"] = postcopyBandwidth }, cancellationToken);
        _ = await Monitor.ExecuteAsync("migrate", new JsonObject { ["uri"] = Uri(port) }, cancellationToken);
    }

    /// <summary>Goes on with a migration that paused in postcopy.</summary>
    internal async Task ResumeAsync(int port, CancellationToken cancellationToken = default)
    {
        _ = await Monitor.WaitForStatusAsync(["postcopy-paused"], cancellationToken);
        _ = await Monitor.ExecuteAsync("migrate", new JsonObject { ["uri"] = Uri(port), ["resume"] = true }, cancellationToken);
    }

    public async ValueTask DisposeAsync()
    {
        Monitor.Dispose();
        if (!_process.HasExited)
        {
            _process.Kill();
        }

        await _process.WaitForExitAsync();
        _process.Dispose();
        Directory.Delete(_directory, recursive: true);
    }

    private static string Uri(int port) => string.Create(CultureInfo.InvariantCulture, $"tcp:127.0.0.1:{port}");

    private static JsonObject Capability(string name) => new() { ["capability"] = name, ["state"] = true };

    private static void ReadSerial(Process process, SerialPort serial)
    {
        byte[] buffer = new byte[4096];
        Stream output = process.StandardOutput.BaseStream;
        for (int got = output.Read(buffer); got > 0; got = output.Read(buffer))
        {
            foreach (byte b in buffer.AsSpan(0, got))
            {
                serial.Transmit(b);
            }
        }
    }
}
