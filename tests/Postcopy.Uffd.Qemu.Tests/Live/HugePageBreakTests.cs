using System.Globalization;
using Postcopy.Uffd.Qemu.Tests.Incoming;

namespace Postcopy.Uffd.Qemu.Tests.Live;

/// <summary>
/// A connection of QEMU 7.2 that breaks inside huge pages. A request that was half served when it broke is half in QEMU's
/// queue: resumed, it sends the rest of that host page first and the beginning later (docs/qemu.md).
/// </summary>
[Collection("live")]
public sealed class HugePageBreakTests
{
    private const int Limit = 1_200_000;

    /// <summary>POSTCOPY_REPEAT=20 for the long run.</summary>
    [Theory(Timeout = Limit)]
    [InlineData(false)]
    [InlineData(true)]
    public async Task TwoBreaksInsideHugePagesAreRecovered(bool preempt)
    {
        int repeat = int.Parse(Environment.GetEnvironmentVariable("POSTCOPY_REPEAT") ?? "1", CultureInfo.InvariantCulture);
        int failed = 0;
        for (int round = 0; round < repeat; round++)
        {
            try
            {
                await BreakTwiceAsync(preempt);
            }
            catch (Exception e) when (repeat > 1)
            {
                failed++;
                TestContext.Current.TestOutputHelper?.WriteLine($"{e}");
            }
        }

        Assert.Equal(0, failed);
    }

    private static async Task BreakTwiceAsync(bool preempt)
    {
        QemuProcess.SkipUnlessThere(newest: false);
        using HugePages pages = new((int)(2 * LiveMigration.Memory >> 21));
        using QemuProcess qemu = QemuIncomingLiveTests.Stopped(
            "-machine pc,memory-backend=mem0 -object memory-backend-memfd,id=mem0,size=128M,hugetlb=on,hugetlbsize=2M,share=on", newest: false);
        string expected = QemuIncomingLiveTests.Hash(qemu);
        await using LiveMigration migration = new(qemu, preempt: preempt);

        // With what is left to send below bandwidth times this, 300 ms if not set, 7.2 begins to complete, and a break then wedges it.
        qemu.Monitor.Execute("migrate-set-parameters", "{\"downtime-limit\": 1}");
        CutNext(migration, preempt, 30_000_000);
        migration.Begin(precopyBandwidth: 1_000_000, postcopyBandwidth: 60_000_000);
        await migration.RunningAsync();
        Task[] touching = migration.Touch(2);
        await migration.PausedAsync();
        CutNext(migration, preempt, 20_000_000);
        migration.Resume();
        await LiveBreakTests.BrokenAgainAsync(migration, 2);
        migration.Unlimit();
        migration.Resume();
        await Task.WhenAll(touching);
        _ = await migration.CompletedAsync();
        Assert.Equal(expected, QemuIncomingLiveTests.Hash(migration.Ram));
        Assert.Equal(2, migration.Incoming.Statistics.LostConnections);
        TestContext.Current.TestOutputHelper?.WriteLine($"{migration.Incoming.SplitHostPages} host pages came end first; {migration.Incoming.Statistics}");
    }

    /// <summary>By a count of bytes: at full speed the source is through before a test has looked how far it is.</summary>
    private static void CutNext(LiveMigration migration, bool preempt, long bytes)
    {
        if (preempt)
        {
            // Main is connected first; most of what is asked for comes on the other one.
            migration.CutNext(null);
        }

        migration.CutNext(Cut.AfterBytes(preempt ? bytes / 2 : bytes));
    }
}
