using System.Text;
using System.Text.Json;
using System.Xml.Linq;
using static Postcopy.Uffd.Tests.Blocktime.TrackerExtensions;

namespace Postcopy.Uffd.Tests.Blocktime;

public sealed class TimelineTests
{
    private const int Megabytes2 = 2_000_000;

    [Fact]
    public void OverlapsAddUpToTheTotalAndLieInEveryVcpusIntervals()
    {
        BlocktimeReport report = TimelineCases.Draw(3, 2000).Report;
        Assert.True(report.TotalNanoseconds > 0);
        Assert.Equal(report.TotalNanoseconds, report.Overlaps.Sum(o => o.End - o.Start));
        Assert.Equal(0, report.OverlapsDropped);
        for (int slot = 0; slot < 3; slot++)
        {
            (long Start, long End)[] blocked = [.. report.Timeline.Where(i => i.Slot == slot).Select(i => (i.Start, i.End)).OrderBy(i => i.Start)];
            Assert.Equal(report.Vcpus[slot].BlocktimeNanoseconds, blocked.Sum(i => i.End - i.Start));

            // Where one interval of the slot ends another may begin at once: joined they hold the overlap.
            List<(long Start, long End)> joined = [];
            foreach ((long Start, long End) interval in blocked)
            {
                if (joined.Count > 0 && joined[^1].End == interval.Start)
                {
                    joined[^1] = (joined[^1].Start, interval.End);
                }
                else
                {
                    joined.Add(interval);
                }
            }

            Assert.All(report.Overlaps, o => Assert.Contains(joined, i => i.Start <= o.Start && o.End <= i.End));
        }
    }

    [Fact]
    public void RecordingAMillionIntervalsAllocatesNothingAndLosesNone()
    {
        const int Faults = 1_000_000;
        using BlocktimeTracker tracker = new(new BlocktimeOptions { MaxSlots = 1, TimelineCapacity = Faults });
        _ = tracker.AddVcpu(1);
        long before = 0;
        for (long i = 0; i < Faults; i++)
        {
            if (i == 1000)
            {
                // Before, the runtime itself allocates for code that runs for the first time, such as the first fold.
                before = GC.GetAllocatedBytesForCurrentThread();
            }

            tracker.Confirm(tracker.Begin(1, A, i * 1000).Ticket);
            tracker.End(A, 4096, (i * 1000) + 300);
        }

        // A collection that another test causes ends the thread's allocation context, and counts up to 8 KiB that nobody used.
        Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 0, Faults / 10);
        BlocktimeReport report = tracker.Snapshot(Faults * 1000L);
        Assert.Equal((Faults, 0L, Faults, 0L), (report.Timeline.Count, report.TimelineDropped, report.Overlaps.Count, report.OverlapsDropped));
    }

    [Fact]
    public void AReadingForTheFiguresHasNoTimelineAndTheSameFigures()
    {
        using BlocktimeTracker tracker = new();
        _ = tracker.AddVcpu(1);
        tracker.Fault(1, A, 10);
        tracker.Place(A, 30);
        tracker.Fault(1, A, 40);
        BlocktimeReport figures = tracker.Snapshot(50, timeline: false);
        BlocktimeReport whole = tracker.Snapshot(50);
        Assert.Empty(figures.Timeline);
        Assert.Empty(figures.Overlaps);
        Assert.Equal(0, figures.TimelineDropped);
        Assert.Equal(whole.TotalNanoseconds, figures.TotalNanoseconds);
        Assert.Equal([new OverlapInterval(10, 30), new OverlapInterval(40, 50)], whole.Overlaps);
        Assert.Equal([new BlockedInterval(0, 10, 30, false), new BlockedInterval(0, 40, 50, true)], whole.Timeline);
    }

    [Fact]
    public void TheSeriesOfPlacementStaysBoundedAndKeepsItsEnds()
    {
        PlacementSeries series = new(TimeSpan.FromMilliseconds(20));
        const long Step = 20_000_000;
        const int Count = 100_000;
        for (long i = 0; i < Count; i++)
        {
            series.Sample(i * Step, i * 100);
        }

        series.Sample((Count - 1) * Step, (Count - 1) * 100, last: true);
        IReadOnlyList<PlacementSample> samples = series.ToList();
        Assert.InRange(samples.Count, PlacementSeries.Capacity / 4, PlacementSeries.Capacity);
        Assert.Equal((new PlacementSample(0, 0), (Count - 1) * Step), (samples[0], samples[^1].At));
        Assert.All(samples.Zip(samples.Skip(1)), p => Assert.True(p.First.At < p.Second.At));
    }

    [Theory]
    [InlineData(1, 50)]
    [InlineData(8, 5000)]
    [InlineData(4, 60_000)]
    public void TheTraceKeepsTheRulesOfTheTraceEventFormat(int vcpus, int faults)
    {
        BlocktimeTimeline timeline = TimelineCases.Draw(vcpus, faults, firstName: "boot \"<\u0001");
        using MemoryStream stream = new();
        timeline.WriteTrace(stream);
        using JsonDocument json = JsonDocument.Parse(stream.ToArray());
        Assert.Equal("ms", json.RootElement.GetProperty("displayTimeUnit").GetString());
        List<JsonElement> events = [.. json.RootElement.GetProperty("traceEvents").EnumerateArray()];
        Assert.All(events, CheckEvent);
        Dictionary<string, List<JsonElement>> phases = events.GroupBy(e => e.GetProperty("ph").GetString()!).ToDictionary(g => g.Key, g => g.ToList());
        Assert.Equal(["C", "M", "X"], phases.Keys.Order());

        // Complete events of one lane must nest or follow each other; ours follow. Times come back to the nanosecond.
        foreach (IGrouping<int, JsonElement> lane in phases["X"].GroupBy(e => e.GetProperty("tid").GetInt32()))
        {
            decimal end = 0;
            foreach (JsonElement complete in lane.OrderBy(e => e.GetProperty("ts").GetDecimal()))
            {
                Assert.True(complete.GetProperty("ts").GetDecimal() >= end);
                end = complete.GetProperty("ts").GetDecimal() + complete.GetProperty("dur").GetDecimal();
            }

            decimal sum = lane.Sum(e => e.GetProperty("dur").GetDecimal()) * 1000;
            Assert.Equal(lane.Key == 0 ? timeline.Report.TotalNanoseconds : timeline.Report.Vcpus[lane.Key - 1].BlocktimeNanoseconds, sum);
        }

        // A viewer filters by category and orders the lanes by number.
        Assert.All(phases["X"], e => Assert.Equal("blocktime", e.GetProperty("cat").GetString()));
        Assert.Equal(
            Enumerable.Range(1, vcpus),
            phases["M"].Where(e => e.GetProperty("name").GetString() == "thread_sort_index").Select(e => e.GetProperty("args").GetProperty("sort_index").GetInt32()));
        Assert.Throws<ArgumentNullException>("utf8", () => timeline.WriteTrace(null!));

        // Every lane has a name, and the counters stay within what there is, in order of time.
        Assert.Equal(vcpus + 1, phases["M"].Count(e => e.GetProperty("name").GetString() == "thread_name"));
        Assert.Contains(phases["M"], e => e.GetProperty("args").TryGetProperty("name", out JsonElement name) && name.GetString() == "boot \"<\u0001");
        foreach (IGrouping<string, JsonElement> counter in phases["C"].GroupBy(e => e.GetProperty("name").GetString()!))
        {
            decimal[] times = [.. counter.Select(e => e.GetProperty("ts").GetDecimal())];
            Assert.Equal(times.Order(), times);
            double most = counter.Max(e => Assert.Single(e.GetProperty("args").EnumerateObject()).Value.GetDouble());
            Assert.InRange(most, 0.5, counter.Key == "blocked vCPUs" ? vcpus : double.MaxValue);
        }

        Assert.Equal(["blocked vCPUs", "placement rate"], phases["C"].Select(e => e.GetProperty("name").GetString()).Distinct().Order());
    }

    [Fact]
    public void TheCounterOfBlockedVcpusFollowsTheIntervals()
    {
        using BlocktimeTracker tracker = new();
        _ = tracker.AddVcpu(1);
        _ = tracker.AddVcpu(2);
        tracker.Fault(1, A, 1000);
        tracker.Fault(2, B, 3000);
        tracker.Place(A, 5000);
        tracker.Place(B, 9000);
        using MemoryStream stream = new();
        new BlocktimeTimeline(tracker.Snapshot(10_000)).WriteTrace(stream);
        using JsonDocument json = JsonDocument.Parse(stream.ToArray());
        (decimal, int)[] counter = [.. json.RootElement.GetProperty("traceEvents").EnumerateArray().Where(e => e.GetProperty("ph").GetString() == "C")
            .Select(e => (e.GetProperty("ts").GetDecimal(), e.GetProperty("args").GetProperty("vCPUs").GetInt32()))];
        Assert.Equal([(0m, 1), (2m, 2), (4m, 1), (8m, 0)], counter);
    }

    [Fact]
    public void TwoToSixtyFourVcpusAndAMillionIntervalsStayBelowTwoMegabytes()
    {
        // The intervals of 64 vCPUs without rest: the worst for the paths. A full million is drawn in the browser tests.
        int faults = Environment.GetEnvironmentVariable("POSTCOPY_FULL") == "1" ? 1_000_000 : 200_000;
        BlocktimeTimeline timeline = TimelineCases.Draw(64, faults);
        Assert.InRange(timeline.Report.Timeline.Count, faults - 128, faults);
        string svg = Svg(timeline);
        Assert.InRange(svg.Length, 10_000, Megabytes2);
        Assert.InRange(Html(timeline).Length, svg.Length, Megabytes2);
    }

    [Theory]
    [InlineData(0, 0)]
    [InlineData(1, 1)]
    [InlineData(200, 2000)]
    public void ThePictureIsWellFormedHasALaneAVcpuAndNothingFromElsewhere(int vcpus, int faults)
    {
        BlocktimeTimeline timeline = vcpus == 0 ? new BlocktimeTimeline(new BlocktimeTracker().Snapshot(5)) : TimelineCases.Draw(vcpus, faults, firstName: "a&b<script>\"'\u0001\ud800");
        foreach (string text in (string[])[Svg(timeline), Svg(Html(timeline))])
        {
            XElement svg = XElement.Parse(text);
            XName group = XName.Get("g", "http://www.w3.org/2000/svg");
            Assert.Equal(Math.Min(vcpus, BlocktimeTimeline.LaneLimit), svg.Descendants(group).Count(g => (string?)g.Attribute("class") == "lane blocked"));
            Assert.Single(svg.Descendants(group), g => (string?)g.Attribute("class") == "lane overlap");
            Assert.DoesNotContain(svg.Descendants(), e => e.Name.LocalName is "script" or "image" or "use" or "foreignObject");
            Assert.DoesNotContain(svg.Descendants().Attributes(), a => a.Name.LocalName is "href" or "src");
            Assert.DoesNotContain("NaN", text);
            Assert.DoesNotContain("Infinity", text);
        }

        Assert.Equal(vcpus > BlocktimeTimeline.LaneLimit, Svg(timeline).Contains("... and 72 more vCPUs without a lane", StringComparison.Ordinal));
    }

    [Fact]
    public void WhatWasNotKeptIsSaidInThePicture()
    {
        BlocktimeReport report = TimelineCases.Record(2, 500, 1, null, capacity: 100);
        Assert.Equal(100, report.Timeline.Count);
        string svg = Svg(new BlocktimeTimeline(report));
        Assert.Contains(FormattableString.Invariant($"{report.TimelineDropped} later intervals were not kept"), svg);
        Assert.Contains("not sampled", svg);
    }

    [Fact]
    public void SamplesOutOfOrderAreRefusedWithWhatIsWrong()
    {
        BlocktimeReport report = new BlocktimeTracker().Snapshot(5);
        ArgumentException e = Assert.Throws<ArgumentException>(() => new BlocktimeTimeline(report, [new PlacementSample(7, 1), new PlacementSample(7, 2)]));
        Assert.Contains("Sample 1 is of 7 ns, not after the one before it (7 ns)", e.Message);
        Assert.Throws<ArgumentNullException>(() => new BlocktimeTimeline(null!));
    }

    private static void CheckEvent(JsonElement one)
    {
        Assert.False(string.IsNullOrEmpty(one.GetProperty("name").GetString()));
        Assert.Equal(1, one.GetProperty("pid").GetInt32());
        Assert.True(one.GetProperty("tid").GetInt32() >= 0);
        switch (one.GetProperty("ph").GetString())
        {
            case "X":
                Assert.True(one.GetProperty("ts").GetDecimal() >= 0);
                Assert.True(one.GetProperty("dur").GetDecimal() > 0);
                break;
            case "C":
                Assert.True(one.GetProperty("ts").GetDecimal() >= 0);
                Assert.All(one.GetProperty("args").EnumerateObject(), v => Assert.True(v.Value.GetDouble() >= 0));
                break;
            default:
                Assert.Contains(one.GetProperty("name").GetString(), (string[])["process_name", "thread_name", "thread_sort_index"]);
                Assert.Equal(JsonValueKind.Object, one.GetProperty("args").ValueKind);
                break;
        }
    }

    private static string Svg(BlocktimeTimeline timeline)
    {
        using StringWriter writer = new();
        timeline.WriteSvg(writer);
        return writer.ToString();
    }

    private static string Html(BlocktimeTimeline timeline)
    {
        using StringWriter writer = new();
        timeline.WriteHtml(writer);
        return writer.ToString();
    }

    private static string Svg(string html)
    {
        int start = html.IndexOf("<svg", StringComparison.Ordinal);
        return html[start..(html.IndexOf("</svg>", StringComparison.Ordinal) + "</svg>".Length)];
    }
}
