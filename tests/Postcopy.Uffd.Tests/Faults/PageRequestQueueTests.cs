namespace Postcopy.Uffd.Tests.Faults;

public sealed class PageRequestQueueTests
{
    private static readonly TimeSpan s_limit = TimeSpan.FromSeconds(20);

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
