using Postcopy.Destination.Tests;

namespace Postcopy.LazySnapshot.Tests;

public sealed class RedisStoreTests
{
    [Fact(Timeout = 180_000)]
    public async Task OneSnapshotServesTwoHostsAtOnceAndEqualPagesAreKeptOnce()
    {
        using RedisServer redis = new();
        using SnapshotFolder folder = new();
        await folder.CaptureAsync();
        string store = $"redis:{redis.Address}";

        (int pushed, string first, string error) = await SnapshotFolder.RunAsync("push", folder.Image, "--store", store, "--name", "a");
        (_, string second, _) = await SnapshotFolder.RunAsync("push", folder.Image, "--store", store, "--name", "b");

        Assert.True(pushed == 0, error);
        Assert.DoesNotContain(" 0 of them new", first, StringComparison.Ordinal);
        Assert.Contains(" 0 of them new", second, StringComparison.Ordinal);
        (int Exit, string Output, string Error)[] restored = await Task.WhenAll(
            SnapshotFolder.RunAsync("restore", "--store", store, "--name", "a", "--check-seed", "1", "--hash-file", folder.File("h1")),
            SnapshotFolder.RunAsync("restore", "--store", store, "--name", "b", "--check-seed", "1", "--hash-file", folder.File("h2")));
        Assert.All(restored, r => Assert.True(r.Exit == 0, r.Output + r.Error));
        folder.AssertRestored("h1");
        folder.AssertRestored("h2");
    }

    [Fact(Timeout = 180_000)]
    public async Task WhileTheStoreIsGoneVcpusWaitAndThenGoOn()
    {
        using RedisServer redis = new();
        using SnapshotFolder folder = new();
        await folder.CaptureAsync("32M");
        string store = $"redis:{redis.Address}";
        Assert.Equal(0, (await SnapshotFolder.RunAsync("push", folder.Image, "--store", store)).Exit);

        // 4096 touches by two threads, 1 ms apart: some 2 s, of which the store misses the middle, twice. It is killed when
        // pages are being read: before that, its absence is a reason not to begin.
        long before = await redis.HitsAsync();
        using SampleProcess restore = SnapshotFolder.Start(
            "restore", "--store", store, "--check-seed", "1", "--touch", "50", "--pace", "1000", "--readahead", "4K", "--hash-file", folder.File("hash"));
        for (int i = 0; i < 2; i++)
        {
            await redis.WaitForHitsAsync(before + 200, TimeSpan.FromSeconds(60));
            before = 0;
            redis.Kill();
            await restore.WaitForAsync(i == 0 ? "does not answer" : "the store is back", TimeSpan.FromSeconds(20));
            await Task.Delay(1000);
            redis.Start();
            await restore.WaitForAsync("the store is back", TimeSpan.FromSeconds(20));
        }

        int exit = await restore.ExitAsync(TimeSpan.FromSeconds(60));

        Assert.True(exit == 0, $"exit code {exit}: {restore.Output}{restore.Error}");
        Assert.Contains("each saw the right content", restore.Output, StringComparison.Ordinal);
        folder.AssertRestored("hash");
    }

    [Fact(Timeout = 180_000)]
    public async Task ADamagedPageIsNotPlacedUntilItIsRight()
    {
        using RedisServer redis = new();
        using SnapshotFolder folder = new();
        await folder.CaptureAsync("1M", "3");
        string store = $"redis:{redis.Address}";
        Assert.Equal(0, (await SnapshotFolder.RunAsync("push", folder.Image, "--store", store)).Exit);
        const string damage = "local n=0; for _,k in ipairs(redis.call('KEYS','p:*')) do n=n+1; redis.call('SETRANGE',k,100,'X') end; return n";
        const string mend = "for _,k in ipairs(redis.call('KEYS','p:*')) do redis.call('DEL',k) end";
        Assert.NotEqual("0", (await RedisServer.CommandAsync("-p", $"{redis.Port}", "EVAL", damage, "0")).Trim());

        using SampleProcess restore = SnapshotFolder.Start("restore", "--store", store, "--check-seed", "3", "--hash-file", folder.File("hash"));
        await restore.WaitForAsync("is damaged in the store", TimeSpan.FromSeconds(20));
        _ = await RedisServer.CommandAsync("-p", $"{redis.Port}", "EVAL", mend, "0");
        Assert.Equal(0, (await SnapshotFolder.RunAsync("push", folder.Image, "--store", store)).Exit);

        Assert.Equal(0, await restore.ExitAsync(TimeSpan.FromSeconds(30)));
        folder.AssertRestored("hash");
    }

    [Fact(Timeout = 180_000)]
    public async Task AClusterServesToo()
    {
        using RedisServer a = new(cluster: true), b = new(cluster: true), c = new(cluster: true);
        string made = await RedisServer.CommandAsync("--cluster", "create", a.Address, b.Address, c.Address, "--cluster-yes");
        Assert.Contains("All 16384 slots covered", made, StringComparison.Ordinal);
        await Task.WhenAll(new[] { a, b, c }.Select(n => n.WaitForClusterAsync(TimeSpan.FromSeconds(30))));
        using SnapshotFolder folder = new();
        await folder.CaptureAsync();
        string store = $"redis:{a.Address},{b.Address},{c.Address}";

        (int pushed, _, string error) = await SnapshotFolder.RunAsync("push", folder.Image, "--store", store);
        Assert.True(pushed == 0, error);
        (int exit, string output, error) = await SnapshotFolder.RunAsync("restore", "--store", store, "--check-seed", "1", "--hash-file", folder.File("hash"));

        Assert.True(exit == 0, output + error);
        folder.AssertRestored("hash");
        Assert.All(await Task.WhenAll(new[] { a, b, c }.Select(n => RedisServer.CommandAsync("-p", $"{n.Port}", "DBSIZE"))),
            size => Assert.True(int.Parse(size.Trim(), System.Globalization.CultureInfo.InvariantCulture) > 500, size));
    }

    [Fact(Timeout = 120_000)]
    public async Task ASnapshotThatIsNotThereIsNamed()
    {
        using RedisServer redis = new();

        (int exit, _, string error) = await SnapshotFolder.RunAsync("restore", "--store", $"redis:{redis.Address}", "--name", "nobody");

        Assert.Equal(1, exit);
        Assert.Contains("has no snapshot 'nobody'", error, StringComparison.Ordinal);
    }
}
