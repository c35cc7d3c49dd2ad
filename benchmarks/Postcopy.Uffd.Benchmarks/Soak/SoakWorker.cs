using System.Text.Json;

namespace Postcopy.Uffd.Benchmarks.Soak;

/// <summary>The process that faults. Its parent watches it: what hangs here must not hang the watchdog too.</summary>
internal static class SoakWorker
{
    internal const string CommandName = "soak-worker";
    private static readonly TimeSpan s_progress = TimeSpan.FromSeconds(5);
    private static readonly TimeSpan s_localRound = TimeSpan.FromSeconds(20);

    internal static int Run(TimeSpan time, int seed)
    {
        SoakCounters counters = new();
        using Timer progress = new(_ => Say(counters.Totals()), null, s_progress, s_progress);
        Random random = new(seed);
        for (int round = 0; counters.Elapsed < time; round++)
        {
            if (round % 2 == 1)
            {
                new WireRound(counters, random).RunAsync().GetAwaiter().GetResult();
                continue;
            }

            TimeSpan left = time - counters.Elapsed;
            using LocalRound local = new(counters, round % 4 == 0 ? GuestMemoryKind.Anonymous : GuestMemoryKind.Memfd, queued: round % 8 >= 4);
            local.Run(left < s_localRound ? left : s_localRound, vcpus: 2 + random.Next(3), random);
        }

        Say(counters.Totals());
        return 0;
    }

    private static void Say(SoakTotals totals)
    {
        lock (s_saying)
        {
            Console.Out.WriteLine(JsonSerializer.Serialize(totals));
            Console.Out.Flush();
        }
    }

    private static readonly Lock s_saying = new();
}
