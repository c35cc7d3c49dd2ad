using System.Globalization;
using Postcopy.Uffd.Tests.Destination;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Faults;

/// <summary>The fault thread's place among the machine's threads: a reader that waits for a processor is stall time (hazard H27).</summary>
public sealed class FaultThreadPriorityTests
{
    private const int Limit = 60_000;
    private const int Fifo = 1;

    [Fact(Timeout = Limit)]
    public async Task TheNiceValueIsTheThreadsAlone() => await Task.Run(() =>
    {
        Requires.Root("Raising a thread's priority");
        using DestinationBench bench = new(options: new PostcopyOptions { FaultReader = new FaultReaderOptions { Nice = -7 } });
        Deadline.Until(() => Threads("postcopy-fault").Exists(t => t.Nice == -7), "a fault thread with the nice value -7");
        Assert.Contains(Threads("postcopy-control"), t => t.Nice != -7);
    });

    [Fact(Timeout = Limit)]
    public async Task TheFifoPriorityIsTheThreadsAlone() => await Task.Run(() =>
    {
        Requires.Root("Real-time priority");
        ListLogger log = new();
        using DestinationBench bench = new(options: new PostcopyOptions { FaultReader = new FaultReaderOptions { FifoPriority = 13 }, LoggerFactory = log });
        Assert.SkipWhen(Deadline.Reached(() => log.Lines.Any(l => l.Contains("SCHED_FIFO", StringComparison.Ordinal)), TimeSpan.FromMilliseconds(300)),
            "Needs real-time time for this control group: echo 950000 > cpu.rt_runtime_us in its cpu controller, or CONFIG_RT_GROUP_SCHED off.");
        Deadline.Until(() => Threads("postcopy-fault").Exists(t => (t.Policy, t.RealTime) == (Fifo, 13)), "a fault thread of SCHED_FIFO 13");
        Assert.DoesNotContain(Threads("postcopy-control"), t => t.Policy == Fifo);
    });

    [Fact(Timeout = Limit)]
    public async Task WhatTheKernelRefusesIsLoggedAndFaultsAreServedAllTheSame() => await Task.Run(() =>
    {
        Requires.Userfaultfd();
        Requires.Root("Becoming user nobody");
        string[] told = ChildProcess.Run(ServeAsNobody).Split('\n', StringSplitOptions.RemoveEmptyEntries);
        Assert.Equal("Warning The fault thread could not get nice value -7 (errno 13); it needs CAP_SYS_NICE", told[0]);
        Assert.Equal("Warning The fault thread could not get SCHED_FIFO priority 13 (errno 1); it needs CAP_SYS_NICE", told[1]);
        Assert.Equal("served, logged by postcopy-control", told[2]);
    });

    [Theory]
    [InlineData(-21, null, "-20 (first) to 19 (last)")]
    [InlineData(20, null, "-20 (first) to 19 (last)")]
    [InlineData(null, 0, "1 (last) to 99 (first)")]
    [InlineData(null, 100, "1 (last) to 99 (first)")]
    public void APriorityOutOfRangeIsRefusedAtTheStart(int? nice, int? fifo, string allowed)
    {
        ArgumentOutOfRangeException refused = Assert.Throws<ArgumentOutOfRangeException>(
            () => new PostcopyDestination(new PostcopyOptions { FaultReader = new FaultReaderOptions { Nice = nice, FifoPriority = fifo } }));
        Assert.Contains(allowed, refused.Message, StringComparison.Ordinal);
    }

    private static void ServeAsNobody(ChildScenario child)
    {
        TestLibc.BecomeNobody();
        ListLogger log = new();
        using DestinationBench bench = new(pages: 8, options: new PostcopyOptions
        {
            FaultReader = new FaultReaderOptions { Nice = -7, FifoPriority = 13 },
            LoggerFactory = log,
        });
        Deadline.Until(() => log.Lines.Count(l => l.StartsWith("Warning The fault thread", StringComparison.Ordinal)) == 2, "both refusals in the log");
        foreach (string line in log.Lines.Where(l => l.StartsWith("Warning The fault thread", StringComparison.Ordinal)))
        {
            child.Say(line);
        }

        FaultingThread reader = bench.Read(3);
        _ = bench.Requester.Take();
        _ = bench.Place(3);
        child.Say(reader.Result == DestinationBench.FirstByte(3) ? $"served, logged by {string.Join(", ", log.ThreadsOf("The fault thread could not"))}" : "wrong content");
    }

    /// <summary>
    /// The threads of this process that have the name, of which the kernel keeps 15 characters;
    /// <c>/proc/self/task/*/stat</c>, proc_pid_stat(5).
    /// </summary>
    private static List<(int Nice, int RealTime, int Policy)> Threads(string name)
    {
        name = name[..Math.Min(name.Length, 15)];
        List<(int, int, int)> found = [];
        foreach (string task in Directory.GetDirectories("/proc/self/task"))
        {
            try
            {
                string stat = File.ReadAllText($"{task}/stat");
                if (stat.Contains($"({name})", StringComparison.Ordinal))
                {
                    // After the name in brackets comes the third field of the manual's list.
                    string[] fields = stat[(stat.LastIndexOf(')') + 2)..].Split(' ');
                    found.Add((Number(fields[19 - 3]), Number(fields[40 - 3]), Number(fields[41 - 3])));
                }
            }
            catch (IOException)
            {
                // The thread ended meanwhile.
            }
        }

        return found;
    }

    private static int Number(string text) => int.Parse(text, CultureInfo.InvariantCulture);
}
