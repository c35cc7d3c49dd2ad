using System.Buffers.Binary;
using Postcopy.Uffd.Qemu.Tests.Incoming;

namespace Postcopy.Uffd.Qemu.Tests.Live;

/// <summary>
/// A real QEMU's connection broken at each place. What QEMU can recover from is recovered; what it cannot is asserted as
/// exactly that, and stands in docs/qemu.md. POSTCOPY_TESTS=full runs every place over every kind of connection.
/// </summary>
[Collection("live")]
public sealed class LiveBreakTests
{
    private const int Limit = 120_000;
    private const int Content = 16 << 20;
    private const long PageRecord = 8 + 1 + 6 + 1000;
    private static readonly string[] s_kinds = ["plain", "preempt", "tls", "tls preempt", "unix", "unix preempt"];

    /// <summary>Every place with each version, every kind in several places.</summary>
    private static readonly (string Place, string Kind72, string Kind111)[] s_recoverable =
    [
        ("torn header", "tls preempt", "unix"),
        ("torn page", "unix", "tls"),
        ("after RESUME_ACK", "preempt", "unix preempt"),
        ("near the end", "tls", "plain"),
        ("torn urgent page", "unix preempt", "preempt"),
    ];

    public static TheoryData<string, string, bool> Recoverable() => Rows(s_recoverable);

    public static TheoryData<string, string, bool> InHandshake() =>
        Rows([("after RECV_BITMAP", "plain", "tls preempt"), ("inside a bitmap", "preempt", "unix")]);

    public static TheoryData<string, string, bool> AtTheSwitch() =>
        Rows([("before the package", "unix", "tls"), ("torn package", "plain", "preempt")]);

    public static TheoryData<string> Kinds() => [.. IsFull ? s_kinds : ["plain"]];

    private static bool IsFull => Environment.GetEnvironmentVariable("POSTCOPY_TESTS") == "full";

    [Theory(Timeout = Limit)]
    [MemberData(nameof(Recoverable))]
    public async Task IsRecovered(string place, string kind, bool newest)
    {
        using QemuProcess qemu = Stopped(newest);
        string expected = QemuIncomingLiveTests.Hash(qemu);
        await using LiveMigration migration = New(qemu, kind);
        CutNext(migration, place, Content * 3 / 4);
        migration.Begin(postcopyBandwidth: 10_000_000);
        await migration.RunningAsync();
        Task[] touching = [];
        switch (place)
        {
            case "after RESUME_ACK":
                await migration.BrokenAsync(Content * 3 / 4);
                migration.CutNext(null, Cut.AfterResumeAck());
                migration.Resume();
                await BrokenAgainAsync(migration, 2);
                break;
            case "near the end":
                await migration.BrokenAsync(Content * 3 / 4);
                migration.SetPostcopyBandwidth(5_000_000);
                migration.Resume();
                qemu.Monitor.WaitForStatus("postcopy-active");

                // At the source: what it has sent waits in socket buffers, and after EOF there is nothing to resume.
                // Broken with less than 512 KiB left, 11.1 fails.
                await Migration.Until(() => Remaining(qemu) < 6 << 20);
                migration.Network.Break();
                await BrokenAgainAsync(migration, 2);
                break;
            case "torn urgent page":
                // 11.1 must have read the answer to PING 0x42. Pages from the end on: the background does not come first.
                qemu.Monitor.WaitForStatus("postcopy-active");
                migration.Destination.Prefetch(migration.Ram, new PageRange(LiveMigration.Memory - (64 * 4096), 64 * 4096));
                await migration.PausedAsync();

                // What came before the break is not asked for again; some sixty pages are.
                CutNext(migration, place, 0);
                migration.Resume();
                await BrokenAgainAsync(migration, 2);
                break;
            default:
                touching = migration.TouchSlowly(2);
                await migration.PausedAsync();
                CutNext(migration, place, Content / 2);
                migration.Resume();
                await BrokenAgainAsync(migration, 2);
                break;
        }

        touching = touching.Length == 0 ? migration.Touch(2) : touching;
        migration.Unlimit();
        migration.Resume();
        await Task.WhenAll(touching);
        _ = await migration.CompletedAsync();
        Assert.Equal(expected, QemuIncomingLiveTests.Hash(migration.Ram));
        Assert.Equal(2, migration.Incoming.Statistics.LostConnections);
        TestContext.Current.TestOutputHelper?.WriteLine($"{migration.Incoming.Statistics}");
    }

    /// <summary>7.2 never leaves postcopy-recover; 11.1 pauses again, and goes on.</summary>
    [Theory(Timeout = Limit)]
    [MemberData(nameof(InHandshake))]
    public async Task ABreakInTheHandshakeOfAResume(string place, string kind, bool newest)
    {
        using QemuProcess qemu = Stopped(newest);
        string expected = QemuIncomingLiveTests.Hash(qemu);
        await using LiveMigration migration = New(qemu, kind, recover: TimeSpan.FromSeconds(newest ? 30 : 2));
        migration.Begin(postcopyBandwidth: 10_000_000);
        await migration.RunningAsync();
        await migration.BrokenAsync(Content * 3 / 4);
        if (place == "after RECV_BITMAP")
        {
            migration.CutNext(Cut.AfterRecvBitmap());
        }
        else
        {
            migration.CutNext(null, Cut.InsideBitmap());
        }

        migration.Resume();
        if (newest)
        {
            await BrokenAgainAsync(migration, 2);
            migration.Unlimit();
            migration.Resume();
            await Task.WhenAll(migration.Touch(2));
            _ = await migration.CompletedAsync();
            Assert.Equal(expected, QemuIncomingLiveTests.Hash(migration.Ram));
            return;
        }

        QemuIncomingException e = await Assert.ThrowsAsync<QemuIncomingException>(() => migration.Receiving);
        Assert.Contains("No new connection came within 2 s", e.Message, StringComparison.Ordinal);
        Assert.False(e.SourceMayResume);
        Assert.Equal("postcopy-recover", qemu.Monitor.MigrationStatus());
        _ = Assert.Throws<InvalidOperationException>(migration.Resume);
    }

    /// <summary>The guest never ran here: it is the source's, which goes on with it or can be told to.</summary>
    [Theory(Timeout = Limit)]
    [MemberData(nameof(AtTheSwitch))]
    public async Task TheGuestStaysTheSources(string place, string kind, bool newest)
    {
        using QemuProcess qemu = await CountingAsync(newest);
        await using LiveMigration migration = New(qemu, kind);
        bool torn = place == "torn package";
        migration.CutNext(torn ? Cut.AfterPackage(-1) : Cut.AfterBytes(100_000));
        migration.Begin(precopyBandwidth: 5_000_000, switchAtOnce: torn);
        QemuIncomingException e = await Assert.ThrowsAsync<QemuIncomingException>(() => migration.Receiving);
        Assert.True(e.SourceMayResume);
        Assert.NotEqual(PostcopyState.Running, migration.Destination.State);
        if (torn && !newest)
        {
            // Its package is out, so it counts the guest as gone, and refuses to run it again: the guest is lost with it.
            qemu.Monitor.WaitForStatus("postcopy-paused");
            Assert.Contains("An older one stays postcopy-paused", e.Message, StringComparison.Ordinal);
            InvalidOperationException refused = Assert.Throws<InvalidOperationException>(() => qemu.Monitor.Execute("cont"));
            Assert.Contains("not finalized", refused.Message, StringComparison.Ordinal);
            return;
        }

        qemu.Monitor.WaitForStatus("failed");
        await CountsOnAsync(qemu);
    }

    /// <summary>7.2: recovered like any other loss, although nothing of the guest's RAM came since the switch.</summary>
    [Theory(Timeout = Limit)]
    [MemberData(nameof(Kinds))]
    public async Task RightAfterThePackageOf72(string kind)
    {
        using QemuProcess qemu = Stopped(newest: false);
        string expected = QemuIncomingLiveTests.Hash(qemu);
        await using LiveMigration migration = New(qemu, kind);
        migration.CutNext(Cut.AfterPackage(0));
        migration.Begin();
        await migration.RunningAsync();
        await migration.PausedAsync();
        migration.CutNext(null, Cut.AfterResumeAck());
        migration.Resume();
        await BrokenAgainAsync(migration, 2);
        migration.Resume();
        await Task.WhenAll(migration.Touch(2));
        _ = await migration.CompletedAsync();
        Assert.Equal(expected, QemuIncomingLiveTests.Hash(migration.Ram));
        Assert.Equal(2, migration.Incoming.Statistics.LostConnections);
    }

    /// <summary>
    /// The one window that the protocol leaves open, with QEMU's own destination too: the answer to PING 0x42 is sent, and the
    /// source never reads it. It may let its guest go on, and so may this side: fence (docs/qemu.md).
    /// </summary>
    [Theory(Timeout = Limit)]
    [MemberData(nameof(Kinds))]
    public async Task TheAnswerToPing42IsLost(string kind)
    {
        using QemuProcess qemu = await CountingAsync(newest: true);
        await using LiveMigration migration = New(qemu, kind, recover: TimeSpan.FromSeconds(2));
        migration.CutNext(null, Cut.InPointOfNoReturn());
        migration.Begin(precopyBandwidth: 5_000_000);
        QemuIncomingException e = await Assert.ThrowsAsync<QemuIncomingException>(() => migration.Receiving);

        // Seen before the guest was let go, or not: the answer is in the socket in both cases.
        Assert.Contains(
            e.SourceMayResume ? "after the package, before the point of no return" : "No new connection came within 2 s", e.Message, StringComparison.Ordinal);

        // Most often it fails and lets its guest go on; one in three stayed in postcopy-device, and ran it neither.
        string status = qemu.Monitor.MigrationStatus();
        Assert.Contains(status, (string[])["failed", "postcopy-device"]);
        if (status == "failed")
        {
            await CountsOnAsync(qemu);
        }
    }

    /// <summary>The guest is whole here; the source cannot know it.</summary>
    [Theory(Timeout = Limit)]
    [InlineData(false)]
    [InlineData(true)]
    public async Task TheLastWordIsLost(bool newest)
    {
        using QemuProcess qemu = Stopped(newest);
        string expected = QemuIncomingLiveTests.Hash(qemu);
        await using LiveMigration migration = New(qemu, "plain");
        migration.CutNext(null, Cut.InShut());
        migration.Begin();
        _ = await migration.Receiving;
        Assert.Equal(expected, QemuIncomingLiveTests.Hash(migration.Ram));
        qemu.Monitor.WaitForStatus(newest ? "failed" : "postcopy-active");
        await Task.Delay(200, TestContext.Current.CancellationToken);
        Assert.Equal(newest ? "failed" : "postcopy-active", qemu.Monitor.MigrationStatus());
        Assert.NotEqual("running", RunState(qemu));
    }

    private static TheoryData<string, string, bool> Rows((string Place, string Kind72, string Kind111)[] places)
    {
        TheoryData<string, string, bool> data = [];
        foreach ((string place, string kind72, string kind111) in places)
        {
            bool onUrgent = place.Contains("urgent", StringComparison.Ordinal);
            foreach (bool newest in (bool[])[false, true])
            {
                foreach (string kind in IsFull ? s_kinds : [newest ? kind111 : kind72])
                {
                    if (!onUrgent || kind.Contains("preempt", StringComparison.Ordinal))
                    {
                        data.Add(place, kind, newest);
                    }
                }
            }
        }

        return data;
    }

    private static void CutNext(LiveMigration migration, string place, long missing)
    {
        bool Armed() => migration.Destination.State == PostcopyState.Running && migration.Destination.Blocks.MissingBytes < missing;
        switch (place)
        {
            case "torn header":
                migration.CutNext(Cut.InRecord(3, Armed));
                break;
            case "torn page":
                migration.CutNext(Cut.InRecord(PageRecord, Armed));
                break;
            case "torn urgent page":
                migration.CutNext(null);
                migration.CutNext(Cut.AfterBytes(4096 + PageRecord + 15));
                break;
        }
    }

    /// <summary>This side sees it first, or the source does.</summary>
    internal static async Task BrokenAgainAsync(LiveMigration migration, int lost)
    {
        await Migration.Until(() => migration.Incoming.Statistics.LostConnections == lost || migration.Receiving.IsCompleted);
        await migration.PausedAsync();
    }

    private static LiveMigration New(QemuProcess qemu, string kind, TimeSpan? recover = null) => new(
        qemu,
        unix: kind.StartsWith("unix", StringComparison.Ordinal),
        tls: kind.StartsWith("tls", StringComparison.Ordinal),
        preempt: kind.Contains("preempt", StringComparison.Ordinal),
        recover: recover);

    /// <summary>Zeros, which precopy sends in no time, and random content at the end.</summary>
    private static QemuProcess Stopped(bool newest)
    {
        QemuProcess.SkipUnlessThere(newest);
        byte[] bytes = new byte[Content];
        new Random(1).NextBytes(bytes);
        return new QemuProcess($"-machine pc -m 128 -device loader,file=@DIR@/content,addr=0x{LiveMigration.Memory - Content:x},force-raw=on", newest, content: bytes);
    }

    internal static async Task<QemuProcess> CountingAsync(bool newest)
    {
        QemuProcess.SkipUnlessThere(newest);
        QemuProcess qemu = new("-machine pc -m 128 -drive file=@DIR@/content,format=raw,if=ide", newest, stopped: false, CounterGuest.Image());
        await Migration.Until(() => Counter(qemu) > 1);
        return qemu;
    }

    private static async Task CountsOnAsync(QemuProcess qemu)
    {
        Assert.Equal("running", RunState(qemu));
        uint before = Counter(qemu);
        await Migration.Until(() => Counter(qemu) != before);
    }

    private static long Remaining(QemuProcess qemu) => qemu.Monitor.Execute("query-migrate").GetProperty("ram").GetProperty("remaining").GetInt64();

    private static uint Counter(QemuProcess qemu) => BinaryPrimitives.ReadUInt32LittleEndian(qemu.SaveMemory(LiveMigration.LoadedAt, 4));

    private static string RunState(QemuProcess qemu) => qemu.Monitor.Execute("query-status").GetProperty("status").GetString()!;
}
