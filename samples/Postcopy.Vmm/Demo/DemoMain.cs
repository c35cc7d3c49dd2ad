using System.Diagnostics;
using System.Globalization;
using Postcopy.Uffd;
using Postcopy.Vmm.Guest;
using Postcopy.Vmm.Machine;
using Postcopy.Vmm.Node;
using Postcopy.Vmm.Qemu;

namespace Postcopy.Vmm.Demo;

/// <summary>One live guest, two or three processes, one screen.</summary>
internal static class DemoMain
{
    private const int Beats = 5;
    private const uint BeatInterval = 500_000_000;

    // Precopy must not be over before the switch to postcopy is asked for, right after it begins.
    private const long QemuPrecopyBandwidth = 1 << 20;
    private const long QemuPostcopyBandwidth = 16 << 20;

    // Slow enough to watch; requested pages are not held back by it.
    private const string OwnBandwidth = "32";

    private static readonly TimeSpan s_tick = TimeSpan.FromMilliseconds(500);
    private static readonly TimeSpan s_limit = TimeSpan.FromSeconds(120);

    internal static async Task<int> RunAsync(DemoOptions options, CancellationToken cancellationToken)
    {
        using CancellationTokenSource limited = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        limited.CancelAfter(s_limit);
        try
        {
            // What is missing is said at once, and not by a process that somebody else waits for.
            KvmSystem.Open().Dispose();
            _ = UffdHandle.Probe();
            return await MoveAsync(options, limited.Token) ? 0 : NodeMain.Failed;
        }
        catch (OperationCanceledException)
        {
            await Console.Error.WriteLineAsync(cancellationToken.IsCancellationRequested ? "Stopped, as asked." : $"Not finished within {s_limit.TotalSeconds:0} s: is this machine busy with something else?");
            return NodeMain.Failed;
        }
        catch (Exception e) when (e is VmmException or UffdException or IOException or System.ComponentModel.Win32Exception)
        {
            await Console.Error.WriteLineAsync(e.Message);
            return NodeMain.Failed;
        }
    }

    private static async Task<bool> MoveAsync(DemoOptions options, CancellationToken cancellationToken)
    {
        Console.WriteLine($"A live guest ({options.Vcpus} vCPU{(options.Vcpus > 1 ? "s" : string.Empty)}, {options.Mode} mode, {DemoOptions.Megabytes} MiB) moves {options.Route} by postcopy, each in a process of its own.");
        Console.WriteLine(QemuProcess.IsInstalled ? string.Empty : $"({QemuProcess.Program} is not on PATH: apt-get install qemu-system-x86 adds the first leg.)");

        string beats = Beats.ToString(CultureInfo.InvariantCulture);
        await using DemoChild b = new("VMM B", [
            "receive", "--listen", "127.0.0.1:0", "--beats", beats, .. options.TimelineFile is { } file ? ["--timeline", file] : (string[])[]]);
        string to = (await b.Endpoint.WaitAsync(cancellationToken)).ToString();
        await using DemoChild a = new("VMM A", [
            .. options.FromQemu ? ["receive"]
                : (string[])["run", "--vcpus", options.Vcpus.ToString(CultureInfo.InvariantCulture), "--memory", DemoOptions.Megabytes.ToString(CultureInfo.InvariantCulture), "--mode", options.Mode],
            "--listen", "127.0.0.1:0", "--to", to, "--beats", beats, "--bandwidth", OwnBandwidth]);
        int port = (await a.Endpoint.WaitAsync(cancellationToken)).Port;
        await using QemuProcess? qemu = options.FromQemu ? await StartQemuAsync(options, cancellationToken) : null;

        using CancellationTokenSource watching = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        Task watch = WatchAsync(qemu, a, b, watching.Token);
        if (qemu is not null)
        {
            await qemu.Serial.NextAsync(l => l == $"0:{Beats:x8}").WaitAsync(cancellationToken);
            await qemu.MigrateAsync(port, QemuPrecopyBandwidth, QemuPostcopyBandwidth, cancellationToken: cancellationToken);
        }

        // If one fails, that one says why: the other only learns that its peer is gone.
        Task<NodeResult>[] ends = [a.ResultAsync(cancellationToken), b.ResultAsync(cancellationToken)];
        await await Task.WhenAny(ends);
        NodeResult[] results = await Task.WhenAll(ends);
        await watching.CancelAsync();
        await watch.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        return DemoSummary.Write(qemu, results[0], results[1]);
    }

    private static Task<QemuProcess> StartQemuAsync(DemoOptions options, CancellationToken cancellationToken)
    {
        GuestSettings guest = new() { LongMode = options.LongMode, StartsOthers = options.Vcpus > 1, Fills = true, BeatInterval = BeatInterval };

        // Room at the end for the firmware's tables.
        uint pages = (uint)((((long)DemoOptions.Megabytes - 2 << 20) - guest.Base) / GuestSettings.PageBytes / options.Vcpus);
        return QemuProcess.StartAsync((guest with { PagesPerVcpu = pages }).Image(), options.Vcpus, DemoOptions.Megabytes, cancellationToken: cancellationToken);
    }

    private static async Task WatchAsync(QemuProcess? qemu, DemoChild a, DemoChild b, CancellationToken cancellationToken)
    {
        long start = Stopwatch.GetTimestamp();
        Console.WriteLine($"  time   {(qemu is null ? string.Empty : "QEMU (TCG)    ")}{"VMM A (KVM)",-36}{"VMM B (KVM)"}");
        string before = string.Empty;
        using PeriodicTimer timer = new(s_tick);
        while (await timer.WaitForNextTickAsync(cancellationToken))
        {
            string atQemu = string.Empty;
            if (qemu is not null)
            {
                int[] beats = Heartbeat.Of(0, qemu.Serial.Lines);
                atQemu = a.HadGuest ? "gone" : beats.Length == 0 ? "booting" : $"heartbeat {beats[^1]}";
                atQemu = $"{atQemu,-14}";
            }

            string now = $"{atQemu}{a.Now(next: b),-36}{b.Now(next: null)}";
            if (now != before)
            {
                Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{Stopwatch.GetElapsedTime(start).TotalSeconds,5:0.0} s  {now}"));
            }

            before = now;
        }
    }
}
