using System.Reflection;
using Postcopy.Uffd.Interop;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Faults;

public sealed class PageRequestQueueTests
{
    private static readonly TimeSpan s_limit = TimeSpan.FromSeconds(20);

    [Fact]
    public void WhoTakesOneOfSeveralPassesTheSignalOn()
    {
        // Another taker has emptied the event for the first request and sleeps again: nobody signals for the second.
        using RawMapping memory = RawMapping.Anonymous(2);
        using RamBlockRegistry registry = new();
        RamBlock block = registry.Add(new RamBlockSpec { Name = "ram", HostAddress = memory.Address, UsedLength = 2 * 4096 });
        using PageRequestQueue queue = new();
        _ = queue.TryRequest(new PageRequest(block, 0, 4096));
        _ = queue.TryRequest(new PageRequest(block, 4096, 4096));
        WakeEvent wake = (WakeEvent)typeof(PageRequestQueue).GetField("_wake", BindingFlags.Instance | BindingFlags.NonPublic)!.GetValue(queue)!;
        wake.Drain();

        Assert.True(queue.TryTake(TimeSpan.Zero, out _));

        Assert.True(IsSignalled(wake));
    }

    private static unsafe bool IsSignalled(WakeEvent wake)
    {
        Libc.PollFd poll = new() { fd = wake.Descriptor, events = Libc.POLLIN };
        Libc.Timespec none = default;
        // SAFETY: two locals.
        return Libc.ppoll(&poll, 1, &none, null) == 1;
    }

    [Fact]
    public void RequestsComeInOrderAndAFullQueueIsBusy()
    {
        using PageRequestQueue queue = new(capacity: 3);
        Assert.False(queue.TryTake(out PageRequest none));
        Assert.Equal(0, none.Length);
        for (int round = 0; round < 5; round++)
        {
            for (int i = 0; i < 3; i++)
            {
                Assert.Equal(RequestOutcome.Sent, queue.TryRequest(At(i)));
            }

            Assert.Equal(RequestOutcome.Busy, queue.TryRequest(At(3)));
            Assert.Equal(3, queue.Count);
            for (int i = 0; i < 3; i++)
            {
                Assert.True(queue.TryTake(out PageRequest request));
                Assert.Equal(At(i).Offset, request.Offset);
            }

            Assert.Equal(0, queue.Count);
        }
    }

    [Fact]
    public void WaitingEndsWithTheTimeOrWithARequest()
    {
        using PageRequestQueue queue = new();
        Assert.False(queue.TryTake(TimeSpan.Zero, out _));
        Assert.False(queue.TryTake(TimeSpan.FromMilliseconds(5), out _));
        Assert.Equal(RequestOutcome.Sent, queue.TryRequest(At(7)));
        Assert.True(queue.TryTake(Timeout.InfiniteTimeSpan, out PageRequest request));
        Assert.Equal(At(7).Offset, request.Offset);
    }

    [Theory]
    [InlineData(0)]
    [InlineData((1 << 20) + 1)]
    public void ACapacityOutOfRangeIsRefused(int capacity) =>
        Assert.Contains("1 to 1048576", Assert.Throws<ArgumentOutOfRangeException>(() => new PageRequestQueue(capacity)).Message, StringComparison.Ordinal);

    [Fact(Timeout = 60_000)]
    public async Task EveryRequestIsTakenOnceByOneOfManyTakersThatSleep()
    {
        const int requests = 50_000, takers = 4;
        using PageRequestQueue queue = new(capacity: 16);
        int[] taken = new int[requests + takers];
        Task[] all = [.. Enumerable.Range(0, takers).Select(_ => Task.Factory.StartNew(
            () =>
            {
                long page = 0;
                while (page < requests)
                {
                    // A taker that is not woken for what is there waits longer than the test does.
                    Assert.True(queue.TryTake(TimeSpan.FromMinutes(5), out PageRequest request));
                    page = request.Offset >> 12;
                    _ = Interlocked.Increment(ref taken[page]);
                }
            },
            TestContext.Current.CancellationToken, TaskCreationOptions.LongRunning, TaskScheduler.Default))];

        // Each taker ends with one of the last requests. Sleeps in between: takers must fall asleep to be woken.
        for (int i = 0; i < taken.Length;)
        {
            if (queue.TryRequest(At(i)) != RequestOutcome.Sent)
            {
                _ = Thread.Yield();
            }
            else if (++i % 5000 == 0)
            {
                Thread.Sleep(1);
            }
        }

        await Task.WhenAll(all).WaitAsync(s_limit, TestContext.Current.CancellationToken);
        Assert.All(taken, times => Assert.Equal(1, times));
    }

    private static PageRequest At(int page) => new(null!, (long)page << 12, 4096);
}
