using System.Collections.Concurrent;
using System.Diagnostics.Tracing;
using Postcopy.Uffd.Tests.Destination;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Diagnostics;

/// <summary>EventSource Postcopy-Uffd as dotnet-trace sees it, on real faults.</summary>
public sealed class EventSourceTests
{
    private const int Limit = 60_000;
    private const EventKeywords Control = (EventKeywords)1, Faults = (EventKeywords)2, Placement = (EventKeywords)4;

    [Fact(Timeout = Limit)]
    public async Task EachKeywordHasItsEvents()
    {
        await Task.Yield();
        using Listener listener = new("events-all", Control | Faults | Placement);
        using (DestinationBench bench = new(pages: 8, new PostcopyOptions { Name = "events-all", Blocktime = new BlocktimeOptions() }))
        {
            Deadline.Until(() => bench.Destination.IsTracingFaults, "the control thread has seen the listener");
            FaultingThread first = bench.Read(2);
            _ = bench.Requester.Take();
            FaultingThread second = bench.Read(2);
            Deadline.Until(() => bench.Destination.Faults.Duplicates == 1, "the duplicate is counted");
            _ = bench.Place(2);
            _ = first.Result;
            _ = second.Result;
            bench.Destination.Pause("the cable");
            bench.Destination.Resume(bench.Requester);
            Assert.True(bench.Destination.Placer.PlaceZero(bench.Block, 0, 8192).IsReceived);
            _ = bench.Place(3, 5);
            _ = await bench.Destination.CompleteAsync();
            await bench.Destination.CloseAsync(MissingPagePolicy.Fail);
        }

        Assert.Equal(
            ["None Advise", "Advise Listen", "Listen Running", "Running Paused", "Paused Running", "Running End"],
            listener.Of("StateChanged").Select(e => $"{e[1]} {e[2]}"));
        Assert.Equal("the cable", Assert.Single(listener.Of("Paused"))[1]);
        Assert.Equal(8L * 4096, Assert.Single(listener.Of("Completed"))[1]);
        Assert.Equal(
            [("ram", 8192L, "Requested"), ("ram", 8192L, "Duplicate")],
            listener.Of("Fault").Select(e => ((string)e[1]!, (long)e[2]!, (string)e[4]!)));
        Assert.All(listener.Of("Fault"), e => Assert.True((long)e[3]! > 0 && (long)e[5]! > 0));
        Assert.Equal(8192L, listener.Of("Placed").Sum(e => (long)e[2]!));
        Assert.Equal(6L * 4096, listener.Of("Placed").Sum(e => (long)e[1]!));
        Assert.Equal(1L, listener.Of("Placed").Sum(e => (long)e[5]!));
    }

    [Fact(Timeout = Limit)]
    public async Task ControlAloneHasNoFaultsAndCollectsNone()
    {
        await Task.Yield();
        using Listener listener = new("events-control", Control);
        using DestinationBench bench = new(pages: 1, new PostcopyOptions { Name = "events-control" });
        FaultingThread reader = bench.Read(0);
        _ = bench.Requester.Take();
        _ = bench.Place(0);
        _ = reader.Result;
        _ = await bench.Destination.CompleteAsync();
        Assert.NotEmpty(listener.Of("StateChanged"));
        Assert.Empty(listener.Of("Fault"));
        Assert.Empty(listener.Of("Placed"));
    }

    [Fact]
    public void AFullRingCountsWhatItDropsAndNeverAllocates()
    {
        using RawMapping mapping = RawMapping.Anonymous(4);
        RamBlockRegistry registry = new();
        RamBlock block = registry.Add(new RamBlockSpec { Name = "ring", HostAddress = mapping.Address, UsedLength = (long)mapping.Length });
        FaultTrace trace = new();
        trace.Add(block, 0, 1, FaultTraceKind.Requested, 1);
        using Listener listener = new("events-ring", Faults);
        long before = GC.GetAllocatedBytesForCurrentThread();
        for (int i = 1; i < 8192 + 100; i++)
        {
            trace.Add(block, i % 4, 1, FaultTraceKind.Requested, i);
        }

        Assert.Equal(before, GC.GetAllocatedBytesForCurrentThread());
        long dropped = 0;
        trace.Drain("events-ring", ref dropped);
        Assert.Equal(100, dropped);
        Assert.Equal(8192, listener.Of("Fault").Count());
        Assert.Equal(100L, Assert.Single(listener.Of("FaultsDropped"))[1]);
        trace.Add(block, 3, 7, FaultTraceKind.Staged, 9);
        trace.Drain("events-ring", ref dropped);
        Assert.Equal(("Staged", 7L, 3L * 4096), listener.Of("Fault").Select(e => ((string)e[4]!, (long)e[3]!, (long)e[2]!)).Last());
        _ = Assert.Single(listener.Of("FaultsDropped"));
    }

    /// <summary>The manifest is what tools read: an event whose arguments do not fit it is reported as an error instead.</summary>
    [Fact]
    public void TheManifestIsSound() =>
        Assert.NotNull(EventSource.GenerateManifest(typeof(PostcopyEventSource), "Postcopy.Uffd.dll", EventManifestOptions.Strict));

    private sealed class Listener : EventListener
    {
        private readonly ConcurrentQueue<EventWrittenEventArgs> _events = new();
        private readonly string _vm;

        internal Listener(string vm, EventKeywords keywords)
        {
            _vm = vm;
            EnableEvents(PostcopyEventSource.Log, EventLevel.Verbose, keywords);
        }

        internal IEnumerable<IReadOnlyList<object?>> Of(string name) => _events.Where(e => e.EventName == name).Select(e => e.Payload!);

        protected override void OnEventWritten(EventWrittenEventArgs eventData)
        {
            // Other tests' destinations share the source.
            if (eventData.Payload is [string vm, ..] && vm == _vm)
            {
                _events.Enqueue(eventData);
            }
        }
    }
}
