using Microsoft.Extensions.Logging;
using Postcopy.Uffd.Tests.Destination;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Faults;

/// <summary>Faults that are stuck on the real kernel, and the watchdog that sets them going (hazard H9).</summary>
public sealed class StuckFaultTests
{
    private const int Limit = 60_000;

    private static DestinationBench Bench(int milliseconds = 20) =>
        new(pages: 64, new PostcopyOptions { StuckFaultCheck = milliseconds == 0 ? Timeout.InfiniteTimeSpan : TimeSpan.FromMilliseconds(milliseconds) });

    private static void CopyWithoutWake(DestinationBench bench, int page)
    {
        nuint source = Pages.Make(page, 4096);
        UffdResult result = bench.Destination.Uffd!.Copy(bench.Mapping.Page(page), source, 4096, UffdPlaceFlags.DontWake);
        Pages.Free(source);
        Assert.Equal(UffdOutcome.Done, result.Outcome);
    }

    [Fact(Timeout = Limit)]
    public async Task AThreadThatNobodyWokeSleepsOnWithoutTheWatchdog() => await Task.Run(() =>
    {
        using DestinationBench bench = Bench(milliseconds: 0);
        FaultingThread reader = bench.Read(3);
        _ = bench.Requester.Take();
        CopyWithoutWake(bench, 3);
        Assert.False(reader.Wait(TimeSpan.FromMilliseconds(500)), "The kernel woke the thread by itself: then these tests show nothing.");
    });

    [Fact(Timeout = Limit)]
    public async Task APlacementWithoutAWakeIsHealed() => await Task.Run(() =>
    {
        using DestinationBench bench = Bench();
        FaultingThread reader = bench.Read(3);
        _ = bench.Requester.Take();
        CopyWithoutWake(bench, 3);
        Assert.Equal(DestinationBench.FirstByte(3), (byte)reader.Result);
        Deadline.Until(() => bench.Destination.Faults.StuckFaults == 1, "the stuck fault in the statistics");
    });

    [Fact(Timeout = Limit)]
    public async Task AReceivedPageWhoseWaiterSleepsIsHealedAndLogged() => await Task.Run(() =>
    {
        using ListLogger log = new();
        using DestinationBench bench = new(pages: 64, new PostcopyOptions { StuckFaultCheck = TimeSpan.FromMilliseconds(20), LoggerFactory = log });
        FaultingThread reader = bench.Read(3);
        _ = bench.Requester.Take();
        CopyWithoutWake(bench, 3);
        Assert.Equal(1, bench.Block.MarkReceived(3, 1));
        Assert.Equal(DestinationBench.FirstByte(3), (byte)reader.Result);
        Deadline.Until(() => bench.Destination.Faults.StuckFaults == 1, "the stuck fault in the statistics");
        Assert.Contains(log.Lines.ToArray(), l => l.Contains("held 1 threads", StringComparison.Ordinal) && l.StartsWith("Error", StringComparison.Ordinal));
    });

    [Fact(Timeout = Limit)]
    public async Task AMessageThatAnotherReaderSwallowedIsAskedForAgain() => await Task.Run(() =>
    {
        using DestinationBench bench = Bench();
        using UffdHandle other = bench.Destination.Uffd!.Duplicate();
        int pages = 0;

        // The thief never sleeps and wins nearly every message, unless the fault thread still spins or a processor is missing.
        for (long swallowed = 0; swallowed == 0; pages += 8)
        {
            Assert.True(pages < 56, "No message was swallowed.");
            swallowed = FaultBesideAThief(bench, other, pages, 8);
        }

        Assert.Equal(pages, bench.Destination.Faults.Requests);
    });

    private static long FaultBesideAThief(DestinationBench bench, UffdHandle other, int first, int count)
    {
        bool stop = false;
        long swallowed = 0, before = bench.Destination.Faults.Messages;
        Thread thief = new(() =>
        {
            Span<UffdMessage> messages = stackalloc UffdMessage[8];
            while (!Volatile.Read(ref stop))
            {
                _ = Interlocked.Add(ref swallowed, other.Read(messages, out _));
            }
        }) { IsBackground = true };
        thief.Start();
        FaultingThread[] readers;
        try
        {
            readers = [.. Enumerable.Range(first, count).Select(page => bench.Read(page))];
            Deadline.Until(() => Interlocked.Read(ref swallowed) + bench.Destination.Faults.Messages - before >= count, "all messages read");
        }
        finally
        {
            Volatile.Write(ref stop, true);
            thief.Join();
        }

        for (int i = 0; i < count; i++)
        {
            _ = bench.Place((int)(bench.Requester.Take().Offset / 4096));
        }

        for (int i = 0; i < count; i++)
        {
            Assert.Equal(DestinationBench.FirstByte(first + i), (byte)readers[i].Result);
        }

        return swallowed;
    }

    [Fact(Timeout = Limit)]
    public async Task ASwallowedMessageIsReported() => await Task.Run(() =>
    {
        using DestinationBench bench = Bench();
        using UffdHandle other = bench.Destination.Uffd!.Duplicate();
        UffdMessage[] messages = new UffdMessage[1];

        // The thief loses some of the races, and a signal makes the kernel send a message twice.
        for (int page = 0; bench.Destination.Faults.StuckFaults == 0; page++)
        {
            Assert.True(page < 60, "No message was swallowed for good.");
            Thread thief = new(() => Deadline.Reached(() => Spin(other, messages), TimeSpan.FromMilliseconds(100))) { IsBackground = true };
            thief.Start();
            FaultingThread reader = bench.Read(page);
            thief.Join();
            PageRequest request = bench.Requester.Take();
            Assert.Equal(page, request.Offset / 4096);
            _ = bench.Place(page);
            Assert.Equal(DestinationBench.FirstByte(page), (byte)reader.Result);
        }

        static bool Spin(UffdHandle handle, UffdMessage[] into)
        {
            for (int i = 0; i < 200_000; i++)
            {
                if (handle.Read(into, out _) > 0)
                {
                    return true;
                }
            }

            return false;
        }
    });

    [Fact(Timeout = Limit)]
    public async Task ASlowSourceIsNoStuckFault() => await Task.Run(() =>
    {
        // A message that nobody has read for two looks is one that is stuck: on a busy machine 20 ms are not that.
        using DestinationBench bench = Bench(milliseconds: 100);
        FaultingThread reader = bench.Read(3);
        _ = bench.Requester.Take();
        Deadline.Until(() => bench.Destination.Faults.WatchdogWakes >= 3, "three wakes of all waiters");
        FaultStatistics faults = bench.Destination.Faults;
        _ = bench.Place(3);
        Assert.Equal(DestinationBench.FirstByte(3), (byte)reader.Result);
        Assert.Equal(0, faults.StuckFaults);
        Assert.Equal(1, faults.Requests);
        Assert.False(bench.Requester.TryTake(out _, 50), "The page was asked for twice.");
    });

    [Fact]
    public void TheKernelsCountsAreParsed()
    {
        Assert.True(WaiterCounts.TryParse("pos:\t0\nflags:\t02004002\nmnt_id:\t15\nino:\t2075\npending:\t3\ntotal:\t17\nAPI:\taa:1ffff:800000000000001f\n"u8, out WaiterCounts counts));
        Assert.Equal(new WaiterCounts(3, 17), counts);
        Assert.Equal(14, counts.Read);
        Assert.False(WaiterCounts.TryParse("pos:\t0\npending:\t\ntotal:\t17\n"u8, out _));
        Assert.False(WaiterCounts.TryParse("pos:\t0\neventfd-count: 0\n"u8, out _));
    }

    [Fact]
    public void AnIntervalThatWouldSpinIsRefused()
    {
        ArgumentOutOfRangeException e = Assert.Throws<ArgumentOutOfRangeException>(() => new PostcopyDestination(new PostcopyOptions { StuckFaultCheck = TimeSpan.Zero }));
        Assert.Contains("10 ms", e.Message, StringComparison.Ordinal);
    }
}
