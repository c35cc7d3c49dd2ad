namespace Postcopy.LazySnapshot.Tests;

public sealed class FileStoreTests
{
    [Fact(Timeout = 120_000)]
    public async Task ARestoredImageIsTheImage()
    {
        using SnapshotFolder folder = new();
        await folder.CaptureAsync();

        (int exit, string output, string error) = await SnapshotFolder.RunAsync(
            "restore", "--store", $"file:{folder.Image}", "--check-seed", "1", "--vcpus", "4", "--hash-file", folder.File("hash"));

        Assert.True(exit == 0, output + error);
        Assert.Contains("each saw the right content", output, StringComparison.Ordinal);
        Assert.Contains("complete after", output, StringComparison.Ordinal);
        folder.AssertRestored("hash");
    }

    [Fact(Timeout = 120_000)]
    public async Task AWrongContentIsSeen()
    {
        using SnapshotFolder folder = new();
        await folder.CaptureAsync(seed: "2");

        (int exit, string output, _) = await SnapshotFolder.RunAsync("restore", "--store", $"file:{folder.Image}", "--check-seed", "1");

        Assert.Equal(1, exit);
        Assert.Contains("saw WRONG content", output, StringComparison.Ordinal);
    }

    [Fact(Timeout = 120_000)]
    public async Task AReplayedWorkingSetLeavesFewerFaults()
    {
        using SnapshotFolder folder = new();
        await folder.CaptureAsync("64M");
        string[] restore = ["restore", "--store", $"file:{folder.Image}", "--check-seed", "1", "--readahead", "4K", "--touch", "10", "--pace", "500", "--no-fill"];

        (int first, string recorded, _) = await SnapshotFolder.RunAsync([.. restore, "--record", folder.File("set")]);
        (int second, string replayed, _) = await SnapshotFolder.RunAsync([.. restore, "--replay", folder.File("set")]);

        Assert.Equal((0, 0), (first, second));
        Assert.Contains("faults: 1638 pages asked for", recorded, StringComparison.Ordinal);
        Assert.True(Asked(replayed) < 1638 / 2, replayed);
        Assert.Contains("not complete", recorded, StringComparison.Ordinal);
    }

    [Theory(Timeout = 120_000)]
    [InlineData("", "is no working set")]
    [InlineData("lazy-snapshot working set 1\n4096 4097", "line 2: '4096 4097'")]
    [InlineData("lazy-snapshot working set 1\n0 4096\n16777216 4096", "line 3: '16777216 4096'")]
    public async Task AWorkingSetThatDoesNotFitIsRefused(string content, string says)
    {
        using SnapshotFolder folder = new();
        await folder.CaptureAsync();
        await File.WriteAllTextAsync(folder.File("set"), content);

        (int exit, _, string error) = await SnapshotFolder.RunAsync("restore", "--store", $"file:{folder.Image}", "--replay", folder.File("set"));

        Assert.Equal(1, exit);
        Assert.Contains(says, error, StringComparison.Ordinal);
    }

    [Theory(Timeout = 120_000)]
    [InlineData(2, "--store: 'tape:7' is not allowed; give file:PATH or redis:HOST:PORT[,HOST:PORT...]", "--store", "tape:7")]
    [InlineData(2, "--readahead: '5000' is not allowed", "--store", "file:/dev/null", "--readahead", "5000")]
    [InlineData(2, "--hash-file: not allowed with --no-fill", "--store", "file:/dev/null", "--no-fill", "--hash-file", "x")]
    [InlineData(1, "has 0 bytes; a memory image is made of whole pages", "--store", "file:/dev/null")]
    [InlineData(1, "The image '/nowhere' cannot be opened", "--store", "file:/nowhere")]
    [InlineData(1, "No Redis answers at 127.0.0.1:1", "--store", "redis:127.0.0.1:1")]
    public async Task WhatIsWrongIsSaid(int expected, string says, params string[] arguments)
    {
        (int exit, _, string error) = await SnapshotFolder.RunAsync(["restore", .. arguments]);

        Assert.Equal(expected, exit);
        Assert.Contains(says, error, StringComparison.Ordinal);
    }

    [Fact(Timeout = 120_000)]
    public async Task TheDemonstrationRuns()
    {
        (int exit, string output, string error) = await SnapshotFolder.RunAsync();

        Assert.True(exit == 0, output + error);
        Assert.Equal(3, output.Split("each saw the right content").Length - 1);
    }

    internal static int Asked(string output)
    {
        const string before = "faults: ";
        string rest = output[(output.IndexOf(before, StringComparison.Ordinal) + before.Length)..];
        return int.Parse(rest[..rest.IndexOf(' ', StringComparison.Ordinal)], System.Globalization.CultureInfo.InvariantCulture);
    }
}
