namespace Postcopy.Uffd.Tests.Blocktime;

/// <summary>Migrations to draw: vCPUs that fault often at first and ever more rarely, recorded by a real tracker from made stamps.</summary>
internal static class TimelineCases
{
    private const long Page = 4096;

    /// <summary>So many vCPUs that fault so many times together; a stamp of the same seed is the same.</summary>
    internal static BlocktimeTimeline Draw(int vcpus, int faults, int seed = 1, string? firstName = null)
    {
        BlocktimeReport report = Record(vcpus, faults, seed, firstName, faults);
        return new BlocktimeTimeline(report, Samples(report, faults * Page), $"{vcpus} vCPUs, {faults} faults (made stamps)");
    }

    internal static BlocktimeReport Record(int vcpus, int faults, int seed, string? firstName, int capacity)
    {
        using BlocktimeTracker tracker = new(new BlocktimeOptions { MaxSlots = vcpus, TimelineCapacity = capacity });
        for (int i = 0; i < vcpus; i++)
        {
            _ = tracker.AddVcpu((uint)i + 1, i == 0 ? firstName : null);
        }

        return tracker.Snapshot(Fault(tracker, vcpus, faults, seed));
    }

    /// <summary>Goes through starts and ends in order of time; the answer is the last end.</summary>
    internal static long Fault(BlocktimeTracker tracker, int vcpus, int faults, int seed)
    {
        Random random = new(seed);
        PriorityQueue<(int Vcpu, bool Start), long> queue = new(vcpus);
        for (int i = 0; i < vcpus; i++)
        {
            queue.Enqueue((i, true), 1_000_000_000 + random.NextInt64(2_000_000));
        }

        int begun = 0;
        long now = 0;
        while (queue.TryDequeue(out (int Vcpu, bool Start) next, out now))
        {
            nuint page = (nuint)(0x7000_0000_0000 + (next.Vcpu * Page));
            if (next.Start)
            {
                if (begun++ >= faults)
                {
                    break;
                }

                tracker.Confirm(tracker.Begin((uint)next.Vcpu + 1, page, now).Ticket);
                // Around 0.3 ms, one in 200 of them for 20 times as long.
                double factor = (random.Next(200) == 0 ? 20 : 1) * Math.Exp((random.NextDouble() + random.NextDouble() - 1) * 2);
                queue.Enqueue((next.Vcpu, false), now + (long)(300_000 * factor));
            }
            else
            {
                tracker.End(page, (nuint)Page, now);
                double progress = (double)begun / faults;
                queue.Enqueue((next.Vcpu, true), now + 1 + (long)(1_200_000 * progress * progress * random.NextDouble()));
            }
        }

        return now;
    }

    private static List<PlacementSample> Samples(BlocktimeReport report, long bytes)
    {
        const int Count = 200;
        long start = report.Timeline.Min(i => i.Start);
        long end = report.Timeline.Max(i => i.End);
        return [.. Enumerable.Range(0, Count + 1).Select(i =>
            new PlacementSample(start + ((end - start) * i / Count), (long)(bytes * Math.Pow((double)i / Count, 0.7))))];
    }
}
