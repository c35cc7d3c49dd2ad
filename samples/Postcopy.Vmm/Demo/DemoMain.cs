using System.Diagnostics;
using System.Globalization;
using Postcopy.Vmm.Guest;
using Postcopy.Vmm.Machine;
using Postcopy.Vmm.Node;
using Postcopy.Vmm.Qemu;

namespace Postcopy.Vmm.Demo;

/// <summary>One live guest, two or three processes, one screen.</summary>
internal static class DemoMain
{
    private const int Megabytes = 32;
    private const int Beats = 5;
    private const uint BeatInterval = 500_000_000;

    // Precopy must not be over before the switch to postcopy is asked for, right after it begins.
    private const long QemuPrecopyBandwidth = 1 << 20;
    private const long QemuPostcopyBandwidth = 16 << 20;

    // Slow enough to watch; requested pages are not held back by it.
    private const string OwnBandwidth = "32";

    private static readonly TimeSpan s_tick = TimeSpan.FromMilliseconds(300);
    private static readonly TimeSpan s_limit = TimeSpan.FromSeconds(60);

    internal static async Task<int> RunAsync(int vcpus, bool longMode, bool fromQemu, CancellationToken cancellationToken)
    {
        using CancellationTokenSource limited = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        limited.CancelAfter(s_limit);
        try
        {
            KvmSystem.Open().Dispose();
            return await MoveAsync(vcpus, longMode, fromQemu, limited.Token) ? 0 : NodeMain.Failed;
        }
        catch (VmmException e)
        {
            await Console.Error.WriteLineAsync(e.Message);
            return NodeMain.Failed;
        }
    }

    private static async Task<bool> MoveAsync(int vcpus, bool longMode, bool fromQemu, CancellationToken cancellationToken)
    {
        string mode = longMode ? "long" : "protected";
        Console.WriteLine($"A live guest ({vcpus} vCPU{(vcpus > 1 ? "s" : string.Empty)}, {mode} mode, {Megabytes} MiB) moves {(fromQemu ? "QEMU -> VMM A -> VMM B" : "VMM A -> VMM B")} by postcopy, each in a process of its own.");
        Console.WriteLine(QemuProcess.IsInstalled ? string.Empty : $"({QemuProcess.Program} is not installed: apt-get install qemu-system-x86 adds the first leg.)");

        string beats = Beats.ToString(CultureInfo.InvariantCulture);
        await using DemoChild b = new("receive", "--listen", "127.0.0.1:0", "--beats", beats);
        string to = (await b.Endpoint.WaitAsync(cancellationToken)).ToString();
        await using DemoChild a = fromQemu
            ? new("receive", "--listen", "127.0.0.1:0", "--to", to, "--beats", beats, "--bandwidth", OwnBandwidth)
            : new("run", "--listen", "127.0.0.1:0", "--to", to, "--beats", beats, "--bandwidth", OwnBandwidth,
                "--vcpus", vcpus.ToString(CultureInfo.InvariantCulture), "--memory", Megabytes.ToString(CultureInfo.InvariantCulture), "--mode", mode);
        int port = (await a.Endpoint.WaitAsync(cancellationToken)).Port;
        await using QemuProcess? qemu = fromQemu ? await StartQemuAsync(vcpus, longMode, cancellationToken) : null;

        using CancellationTokenSource watching = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        Task watch = WatchAsync(qemu, a, b, watching.Token);
        if (qemu is not null)
        {
            await qemu.Serial.NextAsync(l => l == $"0:{Beats:x8}").WaitAsync(cancellationToken);
            await qemu.MigrateAsync(port, QemuPrecopyBandwidth, QemuPostcopyBandwidth, cancellationToken: cancellationToken);
        }

        NodeResult atA = await a.ResultAsync(cancellationToken);
        NodeResult atB = await b.ResultAsync(cancellationToken);
        await watching.CancelAsync();
        await watch.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        return Summarize(qemu, atA, atB);
    }

    private static Task<QemuProcess> StartQemuAsync(int vcpus, bool longMode, CancellationToken cancellationToken)
    {
        GuestSettings guest = new() { LongMode = longMode, StartsOthers = vcpus > 1, Fills = true, BeatInterval = BeatInterval };

        // Room at the end for the firmware's tables.
        uint pages = (uint)((((long)Megabytes - 2 << 20) - guest.Base) / GuestSettings.PageBytes / vcpus);
        return QemuProcess.StartAsync((guest with { PagesPerVcpu = pages }).Image(), vcpus, Megabytes, cancellationToken: cancellationToken);
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

            string now = $"{atQemu}{a.Now,-36}{b.Now}";
            if (now != before)
            {
                Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{Stopwatch.GetElapsedTime(start).TotalSeconds,5:0.0} s  {now}"));
            }

            before = now;
        }
    }

    private static bool Summarize(QemuProcess? qemu, NodeResult atA, NodeResult atB)
    {
        Console.WriteLine();
        foreach ((string name, NodeArrival arrival) in atA.Arrivals.Select(r => ("QEMU -> A", r)).Concat(atB.Arrivals.Select(r => ("A -> B", r))))
        {
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture,
                $"{name,-10} {arrival.Pages + arrival.ZeroPages} pages ({arrival.PrecopyPages} before the switch), {arrival.FaultRequests} fetched because a vCPU touched them, postcopy took {arrival.DurationMs:0} ms"));
            string blocked = string.Join(", ", arrival.VcpuBlockedMs.Select((ms, i) => string.Create(CultureInfo.InvariantCulture, $"vCPU {i} {ms:0.0} ms")));
            blocked = string.Create(CultureInfo.InvariantCulture, $"stood still for pages: {blocked}; all at once {arrival.TotalBlockedMs:0.0} ms");
            string downtime = arrival.DowntimeMs is { } ms2 ? string.Create(CultureInfo.InvariantCulture, $"; for the switch {ms2:0.0} ms") : string.Empty;
            Console.WriteLine($"{string.Empty,-10} {blocked}{downtime}");
        }

        // Each stretch of heartbeats, from where it was printed.
        bool allThere = true;
        string[] untilA = qemu is null ? [.. atA.Lines] : Heartbeat.Join(qemu.Serial, atA.Lines);
        for (int i = 0; i < atB.Guest!.Touched.Length; i++)
        {
            int[] all = [.. Heartbeat.Of(i, untilA), .. atB.Beats(i)];
            bool whole = all.SequenceEqual(Enumerable.Range(1, all.Length));
            allThere &= whole;
            int atQemu = all.Length - atA.Beats(i).Length - atB.Beats(i).Length;
            int untilB = all.Length - atB.Beats(i).Length;
            string where = $"{(qemu is null ? string.Empty : $"QEMU 1-{atQemu}, ")}A {atQemu + 1}-{untilB}, B {untilB + 1}-{all.Length}";
            Console.WriteLine($"heartbeats vCPU {i}: {where}: {(whole ? "none lost, none twice" : "NOT in order: " + string.Join(' ', all))}");
        }

        NodeGuest guest = atB.Guest!;
        Console.WriteLine($"memory     {guest.CheckedPages - guest.WrongPages} of {guest.CheckedPages} pages right; the guest itself found {guest.Errors.Sum()} wrong in {guest.Touched.Sum()} touches");
        return allThere && guest.WrongPages == 0 && guest.Errors.Sum() == 0;
    }
}
