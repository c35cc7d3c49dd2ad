using System.Text;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Blocktime;

/// <summary>
/// Reports and pictures of made stamps, to the last character. POSTCOPY_UPDATE=1 writes the files anew: look at the pictures then.
/// </summary>
public sealed class GoldenReportTests
{
    [Fact]
    public void TheReportOfAMigrationWithEverythingInItIsAsItWas()
    {
        BlocktimeTimeline timeline = Eventful(faults: 600);

        AreAsTheyWere(
            ("eventful.txt", timeline.Report.ToText()),
            ("eventful.json", timeline.Report.ToJson(indented: true)),
            ("eventful.html", Text(timeline.WriteHtml)),
            ("short.trace.json", Trace(Eventful(faults: 60)).Replace("},{\"name\"", "},\n{\"name\"")));
    }

    [Fact]
    public void TheReportOfAMigrationWithoutFaultsIsAsItWas()
    {
        using BlocktimeTracker tracker = new();
        _ = tracker.AddVcpu(1);
        BlocktimeReport report = tracker.Snapshot(1_000_000);

        AreAsTheyWere(("quiet.txt", report.ToText()), ("quiet.json", report.ToJson(indented: true)), ("quiet.svg", Text(new BlocktimeTimeline(report).WriteSvg)));
    }

    [Fact]
    public void ThePictureOfMoreVcpusThanItHasLanesIsAsItWas()
    {
        const int Vcpus = BlocktimeTimeline.LaneLimit + 2;
        using BlocktimeTracker tracker = new(new BlocktimeOptions { MaxSlots = Vcpus });
        for (uint vcpu = 1; vcpu <= Vcpus; vcpu++)
        {
            _ = tracker.AddVcpu(vcpu, 0);
            tracker.Fault(vcpu, A(vcpu), 1_000_000 + (vcpu * 7000));
        }

        for (uint vcpu = 1; vcpu <= Vcpus; vcpu++)
        {
            tracker.Place(A(vcpu), 2_000_000 + (vcpu * 11_000));
        }

        AreAsTheyWere(("many.svg", Text(new BlocktimeTimeline(tracker.Snapshot(5_000_000), title: "many").WriteSvg)), ("many.txt", tracker.Snapshot(5_000_000).ToText()));
    }

    /// <summary>Four vCPUs with names to escape, a lost link, a vCPU that is idle and one that leaves, other threads, repetitions, stalls that stay open.</summary>
    private static BlocktimeTimeline Eventful(int faults)
    {
        using BlocktimeTracker tracker = new(new BlocktimeOptions { MaxSlots = 4, OtherCapacity = 2, TimelineCapacity = 400 });
        string?[] names = ["boot <\"&'>", null, "a name that is far too long for the room that a lane has for it", "idle"];
        VcpuSlot[] slots = [.. names.Select((name, i) => tracker.AddVcpu((uint)i + 1, 1_000_000_000, name))];
        tracker.SetIdle(slots[3], true, 1_000_000_000);
        Numbers numbers = new();
        long[] next = [.. slots.Select((_, i) => 1_000_000_000L + (i * 137_000))];
        List<PlacementSample> samples = [new PlacementSample(1_000_000_000, 0)];
        for (int i = 0; i < faults; i++)
        {
            int vcpu = Array.IndexOf(next, next.Min());
            long at = next[vcpu];
            long stall = i % 50 == 0 ? 40_000_000 + numbers.Below(400_000_000) : 20_000 + numbers.Below(900_000);
            tracker.NoteReader(at);
            BeginResult begun = tracker.Begin((uint)vcpu + 1, A(vcpu), at, at - numbers.Below(30_000));
            if (i % 40 == 7)
            {
                tracker.Cancel(begun.Ticket);
            }
            else
            {
                tracker.Confirm(begun.Ticket);
                if (i % 30 == 3)
                {
                    Assert.Equal(BeginKind.Duplicate, tracker.Begin((uint)vcpu + 1, A(vcpu), at + 1000).Kind);
                }

                if (i % 100 == 20 && vcpu == 1)
                {
                    tracker.LeaveGuest(slots[vcpu], at + (stall / 2));
                }

                tracker.End(A(vcpu), 4096, at + stall, at + stall - 3000);
            }

            if (i is 200 or 300)
            {
                tracker.SetLink(i == 300, at);
            }

            next[vcpu] = at + stall + 1 + numbers.Below(i * 5000);
            if (i % 20 == 19 && at > samples[^1].At)
            {
                samples.Add(new PlacementSample(at, samples[^1].Bytes + 4096 * numbers.Below(50_000)));
            }
        }

        long end = next.Max();
        for (uint other = 100; other < 103; other++)
        {
            BeginResult begun = tracker.Begin(other, A(other), end);
            tracker.Confirm(begun.Ticket);
        }

        tracker.Place(A(100), end + 250_000);
        tracker.Fault(1, A(0), end + 100_000);
        tracker.Fault(3, A(2), end + 300_000);
        return new BlocktimeTimeline(tracker.Snapshot(end + 70_000_000), samples, "eventful <&>");
    }

    private static nuint A(long page) => (nuint)(0x7000_0000_0000 + (page * 4096));

    private static string Text(Action<TextWriter> write)
    {
        using StringWriter writer = new();
        write(writer);
        return writer.ToString();
    }

    private static string Trace(BlocktimeTimeline timeline)
    {
        using MemoryStream stream = new();
        timeline.WriteTrace(stream);
        return Encoding.UTF8.GetString(stream.ToArray());
    }

    private static void AreAsTheyWere(params (string Name, string Content)[] files)
    {
        foreach ((string name, string content) in files)
        {
            string path = RepositoryFile.PathOf("tests", "Postcopy.Uffd.Tests", "Blocktime", "Golden", name);
            if (Environment.GetEnvironmentVariable("POSTCOPY_UPDATE") == "1")
            {
                _ = Directory.CreateDirectory(Path.GetDirectoryName(path)!);
                File.WriteAllText(path, content);
            }

            Assert.Equal(File.ReadAllText(path), content);
        }
    }

    /// <summary>The same on every machine and runtime.</summary>
    private sealed class Numbers
    {
        private ulong _state = 1;

        internal long Below(long limit)
        {
            _state = (_state * 6_364_136_223_846_793_005) + 1_442_695_040_888_963_407;
            return limit <= 0 ? 0 : (long)((_state >> 33) % (ulong)limit);
        }
    }
}
