using System.Globalization;
using System.Net;
using Postcopy.Uffd.Benchmarks.Lab;
using Postcopy.Uffd.Qemu;

namespace Postcopy.Uffd.Benchmarks.Migrations;

/// <summary>
/// Our destination in a process of its own, as native/destination.c is the baseline's: says "listening PORT", then a line
/// for each thing that happened, and ends when its input does.
/// </summary>
internal sealed class ReceivingChild
{
    /// <summary>Pages to touch one after the other, in a file of 32-bit numbers; each is timed.</summary>
    internal string? Order { get; init; }

    internal int Count { get; init; }

    /// <summary>Threads that touch every page, each in an order of its own, as long as pages are missing.</summary>
    internal int Touchers { get; init; }

    internal bool Preempt { get; init; }

    /// <summary>Collapses afterwards what is not huge, without a pause.</summary>
    internal bool Collapse { get; init; }

    internal PlacerOptions Placer { get; init; } = new();

    internal int Run()
    {
        EndWithInput();
        using MigrationListener listener = MigrationListener.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        PostcopyDestination destination = new(new PostcopyOptions { Blocktime = new BlocktimeOptions(), Placer = Placer });
        using TouchOrder? order = Order is null ? null : new TouchOrder(TouchFile.Read(Order, Count));
        if (order is not null)
        {
            // Loads the library, which is no part of a migration.
            _ = order.Touch(0, 0, pinned: false);
        }

        TaskCompletionSource<Thread[]> touching = new();
        QemuIncoming incoming = new(destination, new QemuIncomingOptions
        {
            Preempt = Preempt,
            OnRunning = () => touching.SetResult(StartTouching(destination.Blocks.Blocks.MaxBy(b => b.UsedLength)!, order)),
        });
        Say($"listening {((IPEndPoint)listener.LocalEndPoint).Port}");
        CompletionReport report;
        try
        {
            report = incoming.RunAsync(c => listener.AcceptAsync(c)).GetAwaiter().GetResult();
        }
        catch (QemuIncomingException e)
        {
            Say($"failed: {e.Message}");
            return 1;
        }

        foreach (Thread thread in touching.Task.GetAwaiter().GetResult())
        {
            thread.Join();
        }

        Tell(report, incoming.Statistics);
        if (Collapse)
        {
            CollapseReport collapse = destination.CollapseAsync(new CollapseOptions { Share = 1 }).GetAwaiter().GetResult();
            Say($"collapsed {collapse.Collapsed}");
            Say($"collapseMilliseconds {collapse.Busy.TotalMilliseconds}");
            Say($"longestCollapseMilliseconds {collapse.Longest.TotalMilliseconds}");
        }

        Say($"complete");
        Thread.Sleep(Timeout.Infinite);
        return 0;
    }

    private static void Say(FormattableString line) => Console.Out.WriteLine(line.ToString(CultureInfo.InvariantCulture));

    /// <summary>The parent keeps the other end open for as long as it lives.</summary>
    private static void EndWithInput() => new Thread(() =>
    {
        while (Console.In.Read() >= 0)
        {
        }

        Environment.Exit(0);
    })
    { IsBackground = true, Name = "lab input" }.Start();

    private Thread[] StartTouching(RamBlock ram, TouchOrder? order)
    {
        List<Thread> threads = [];
        if (order is not null)
        {
            threads.Add(new Thread(() =>
            {
                string stalls = string.Join(' ', order.Touch(ram.HostAddress, order.Count, pinned: false).ToArray());
                Say($"stalls {stalls}");
            }));
        }

        for (int i = 1; i <= Touchers; i++)
        {
            int seed = i;
            threads.Add(new Thread(() => TouchAll(ram, seed)));
        }

        threads.ForEach(t => t.Start());
        return [.. threads];
    }

    private static void TouchAll(RamBlock ram, int seed)
    {
        using TouchOrder order = new(ram.UsedLength >> 12, seed);
        _ = order.Touch(ram.HostAddress, order.Count, pinned: false);
    }

    private static void Tell(CompletionReport report, QemuIncomingStatistics wire)
    {
        PlacementStatistics placed = report.Placement;
        Say($"requests {wire.Requests}");
        Say($"urgentPages {wire.UrgentPages}");
        Say($"ioctls {placed.Operations}");
        Say($"stretchesMoved {placed.StretchesMoved}");
        Say($"stretchesDisturbed {placed.StretchesDisturbed}");
        Say($"stretchesUnfinished {placed.StretchesUnfinished}");
        Say($"stretchesSplit {placed.StretchesSplit}");
        Say($"stretchesBegun {placed.StretchesBegun}");
        Say($"stretchesUnbacked {placed.StretchesUnbacked}");
        Say($"stretchesSparse {placed.StretchesSparse}");
        Say($"stretchesRefused {placed.StretchesRefused}");
        Say($"movedZeroPages {placed.MovedZeroPages}");
        Say($"gcCollections {GC.CollectionCount(0)}");
        Say($"gcPauseMilliseconds {GC.GetTotalPauseDuration().TotalMilliseconds}");
    }
}
