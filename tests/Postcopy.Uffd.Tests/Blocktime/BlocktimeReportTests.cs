using System.Text.Json;
using static Postcopy.Uffd.Tests.Blocktime.TrackerExtensions;

namespace Postcopy.Uffd.Tests.Blocktime;

public sealed class BlocktimeReportTests
{
    private const long Ms = 1_000_000;

    [Fact]
    public void TextFitsEightyColumnsAndNamesEveryFigure()
    {
        BlocktimeReport report = Sample();
        string text = report.ToText();
        TestContext.Current.TestOutputHelper!.WriteLine(text);
        Assert.All(text.Split('\n'), line => Assert.True(line.Length <= 80, $"{line.Length} columns: {line}"));
        Assert.All(text, c => Assert.True(c is '\n' or (>= ' ' and < (char)127)));
        Assert.Contains("Postcopy blocktime, 2 vCPUs\n", text);
        Assert.Contains("all vCPUs blocked at once     35.0 ms", text);
        Assert.Contains("with the link down          30.0 ms", text);
        Assert.Contains("boot", text);
        Assert.Contains("other threads", text);
        Assert.Contains("####", text);
        Assert.Contains("open for 20.0 ms: vCPU 1, thread 12 waits for 0x700000003000", text);
        Assert.Contains("reader's delay  mean 2.00 us, at most 2.00 us seen", text);
        Assert.Contains("stamp's delay     mean 3.00 us", text);
    }

    [Fact]
    public void TextOfManyHugeFiguresStillFits()
    {
        using BlocktimeTracker tracker = new(new BlocktimeOptions { MaxSlots = 200 });
        for (uint i = 0; i < 200; i++)
        {
            tracker.AddVcpu(i + 1, "a-very-long-name-of-a-vcpu");
        }

        for (uint i = 0; i < 200; i++)
        {
            tracker.Fault(i + 1, unchecked((nuint)0xffff_ffff_ffff_f000), 0);
        }

        string text = tracker.Snapshot(long.MaxValue / 2).ToText();
        Assert.All(text.Split('\n'), line => Assert.True(line.Length <= 80, $"{line.Length} columns: {line}"));
        Assert.Contains("... and 136 more", text);
        Assert.Contains("... and 192 more", text);
    }

    [Fact]
    public void TextOfAnEmptyTrackerReadsWell()
    {
        using BlocktimeTracker tracker = new();
        string text = tracker.Snapshot(5).ToText();
        Assert.StartsWith("Postcopy blocktime, 0 vCPUs\n", text);
        Assert.Contains("all vCPUs blocked at once        0 ns", text);
        Assert.Equal(text, tracker.Snapshot(5).ToString());
    }

    [Fact]
    public void JsonHasTheMembersOfQueryMigrateWithTheirUnits()
    {
        using JsonDocument json = JsonDocument.Parse(Sample().ToJson());
        JsonElement root = json.RootElement;
        Assert.Equal(
            ["postcopy-blocktime", "postcopy-vcpu-blocktime", "postcopy-latency", "postcopy-latency-dist", "postcopy-vcpu-latency", "postcopy-non-vcpu-latency", "postcopy-uffd"],
            root.EnumerateObject().Select(p => p.Name));
        Assert.Equal(35, root.GetProperty("postcopy-blocktime").GetInt64());
        Assert.Equal([55L, 55], Numbers(root.GetProperty("postcopy-vcpu-blocktime")));
        Assert.Equal([55 * Ms, 35 * Ms], Numbers(root.GetProperty("postcopy-vcpu-latency")));
        Assert.Equal(8 * Ms, root.GetProperty("postcopy-non-vcpu-latency").GetInt64());
        Assert.Equal((55 + 35 + 8) * Ms / 3, root.GetProperty("postcopy-latency").GetInt64());
        long[] distribution = Numbers(root.GetProperty("postcopy-latency-dist"));
        Assert.Equal(24, distribution.Length);
        // 8000 us is in [4096, 8192), 35000 and 55000 us in [32768, 65536).
        Assert.Equal((1L, 2L, 3L), (distribution[12], distribution[15], distribution.Sum()));
    }

    [Fact]
    public void JsonHasEveryFinerMemberByName()
    {
        using JsonDocument json = JsonDocument.Parse(Sample().ToJson(indented: false));
        JsonElement own = json.RootElement.GetProperty(BlocktimeReport.DetailMember);
        Assert.Equal(
            ["at-ns", "blocktime-ns", "link-up-ns", "link-down-ns", "error-bound-ns", "reading-excess-ns", "duplicates", "cancelled", "unresolved", "untracked",
                "other-unresolved", "other-overflow", "latency", "vcpu-latency", "other-latency", "reader-delay", "stamp-delay", "vcpus", "open-stalls",
                "timeline-dropped", "timeline"],
            own.EnumerateObject().Select(m => m.Name));
    }

    [Fact]
    public void FaultsThatHadNoRoomAreSaidInTheText()
    {
        using BlocktimeTracker tracker = new(new BlocktimeOptions { OtherCapacity = 1 });
        Assert.DoesNotContain("want of room", tracker.Snapshot().ToText(), StringComparison.Ordinal);
        _ = tracker.Begin(0, 0x1000, 10);
        _ = tracker.Begin(0, 0x2000, 10);
        Assert.Contains("Faults not measured for want of room: 0 of vCPUs, 1 of others.", tracker.Snapshot().ToText(), StringComparison.Ordinal);
    }

    [Fact]
    public void JsonKeepsTheFinerFiguresInOneMember()
    {
        using JsonDocument json = JsonDocument.Parse(Sample().ToJson(indented: true));
        JsonElement own = json.RootElement.GetProperty(BlocktimeReport.DetailMember);
        Assert.Equal(35 * Ms, own.GetProperty("blocktime-ns").GetInt64());
        Assert.Equal(5 * Ms, own.GetProperty("link-up-ns").GetInt64());
        Assert.Equal(30 * Ms, own.GetProperty("link-down-ns").GetInt64());
        Assert.Equal(0, own.GetProperty("error-bound-ns").GetInt64());
        Assert.Equal(2, own.GetProperty("vcpu-latency").GetProperty("count").GetInt64());
        Assert.InRange(own.GetProperty("vcpu-latency").GetProperty("p50-ns").GetInt64(), 35 * Ms, 35 * Ms * 33 / 32);
        Assert.Equal(55 * Ms, own.GetProperty("vcpu-latency").GetProperty("p99-ns").GetInt64());
        JsonElement boot = own.GetProperty("vcpus")[0];
        Assert.Equal("boot", boot.GetProperty("name").GetString());
        Assert.Equal(1, boot.GetProperty("duplicates").GetInt64());
        Assert.Equal(35 * Ms, boot.GetProperty("overlap-ns").GetInt64());
        JsonElement stall = Assert.Single(own.GetProperty("open-stalls").EnumerateArray());
        Assert.Equal((1, (ulong)D, 80 * Ms), (stall.GetProperty("slot").GetInt32(), stall.GetProperty("page").GetUInt64(), stall.GetProperty("since-ns").GetInt64()));
        Assert.Equal([[0, 0, 55 * Ms], [1, 20 * Ms, 55 * Ms], [1, 80 * Ms, 100 * Ms]], own.GetProperty("timeline").EnumerateArray().Select(Numbers).OrderBy(t => t[1]));
        Assert.Equal(2000, own.GetProperty("reader-delay").GetProperty("mean-ns").GetInt64());
    }

    [Fact]
    public void WriteJsonAddsItsMembersToTheCallersObject()
    {
        using MemoryStream stream = new();
        using (Utf8JsonWriter writer = new(stream))
        {
            writer.WriteStartObject();
            writer.WriteString("status", "completed");
            Sample().WriteJson(writer);
            writer.WriteEndObject();
        }

        using JsonDocument json = JsonDocument.Parse(stream.ToArray());
        Assert.Equal("completed", json.RootElement.GetProperty("status").GetString());
        Assert.True(json.RootElement.TryGetProperty("postcopy-blocktime", out _));
        Assert.Throws<ArgumentNullException>(() => Sample().WriteJson(null!));
    }

    [Theory]
    [InlineData(0, 0)]
    [InlineData(999, 0)]
    [InlineData(1_999, 0)]
    [InlineData(2_000, 1)]
    [InlineData(3_999, 1)]
    [InlineData(4_000, 2)]
    [InlineData(8_388_607_999, 22)]
    [InlineData(8_388_608_000, 23)]
    [InlineData(long.MaxValue, 23)]
    public void BucketBoundariesAreThoseOfQemu(long latency, int bucket) => Assert.Equal(bucket, LatencyHistogram.Coarse(latency));

    [Theory]
    [InlineData(1)]
    [InlineData(31)]
    [InlineData(32)]
    [InlineData(1_000_003)]
    [InlineData(long.MaxValue / 4)]
    public void PercentilesAreAtMostAThirtySecondTooHigh(long latency)
    {
        LatencyHistogram histogram = new();
        histogram.Add(latency);
        histogram.AddShared(long.MaxValue / 2);
        long p50 = histogram.Summarize().P50Nanoseconds;
        Assert.InRange(p50, latency, latency + (latency / 32));
        Assert.Equal(long.MaxValue / 2, histogram.Summarize().P99Nanoseconds);
    }

    [Fact]
    public void TimelineCountsWhatItHadNoRoomFor()
    {
        using BlocktimeTracker tracker = new(new BlocktimeOptions { TimelineCapacity = 3 });
        tracker.AddVcpu(1);
        for (int i = 0; i < 10; i++)
        {
            tracker.Fault(1, A, i * 10);
            tracker.Place(A, (i * 10) + 4);
        }

        BlocktimeReport report = tracker.Snapshot(1000);
        Assert.Equal([0L, 10, 20], report.Timeline.Select(i => i.Start));
        Assert.Equal(7, report.TimelineDropped);
        Assert.Contains("Intervals not kept in the timeline: 7.", report.ToText());
        Assert.Equal(40, report.TotalNanoseconds);
    }

    [Fact]
    public void TimelineThatIsSwitchedOffHasNothingToKeep()
    {
        using BlocktimeTracker tracker = new(new BlocktimeOptions { TimelineCapacity = 0 });
        tracker.AddVcpu(1);
        tracker.Fault(1, A, 0);
        tracker.Place(A, 4);

        BlocktimeReport report = tracker.Snapshot(1000);
        Assert.Equal((0, 0L, 0L, 4L), (report.Timeline.Count, report.TimelineDropped, report.OverlapsDropped, report.TotalNanoseconds));
        Assert.DoesNotContain("not kept", report.ToText());
    }

    // vCPU 0 waits 0..55 ms, vCPU 1 20..55 and 80.. ms; the link is down 25..70 ms; another thread waits 8 ms.
    private static BlocktimeReport Sample()
    {
        using BlocktimeTracker tracker = new();
        tracker.AddVcpu(11, "boot");
        tracker.AddVcpu(12);
        tracker.Confirm(tracker.Begin(11, A, 0, -2000).Ticket);
        tracker.Begin(11, A, 1 * Ms);
        tracker.Fault(12, B, 20 * Ms);
        tracker.SetLink(false, 25 * Ms);
        tracker.Fault(999, C, 40 * Ms);
        tracker.End(C, 4096, 48 * Ms);
        tracker.End(A, 8192, 55 * Ms, (55 * Ms) - 3000);
        tracker.SetLink(true, 70 * Ms);
        tracker.Fault(12, D, 80 * Ms);
        return tracker.Snapshot(100 * Ms);
    }

    private static long[] Numbers(JsonElement array) => [.. array.EnumerateArray().Select(e => e.GetInt64())];
}
