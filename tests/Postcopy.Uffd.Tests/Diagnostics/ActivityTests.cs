using System.Diagnostics;
using Postcopy.Uffd.Tests.Destination;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Diagnostics;

/// <summary>One activity per migration.</summary>
public sealed class ActivityTests
{
    private const int Limit = 60_000;

    [Fact(Timeout = Limit)]
    public async Task AMigrationIsOneActivityWithItsStates()
    {
        using Activity parent = new Activity("a caller").Start();
        using Recorder recorder = new("activity-whole");
        using (DestinationBench bench = new(pages: 2, new PostcopyOptions { Name = "activity-whole", Blocktime = new BlocktimeOptions() }))
        {
            Assert.Same(parent, Activity.Current);
            FaultingThread reader = bench.Read(0);
            _ = bench.Requester.Take();
            _ = bench.Place(0);
            _ = reader.Result;
            bench.Destination.Pause("the cable");
            bench.Destination.Resume(bench.Requester);
            _ = bench.Place(1);
            _ = await bench.Destination.CompleteAsync();
        }

        Activity activity = Assert.Single(recorder.Ended);
        Assert.Equal(("postcopy", ActivityKind.Consumer, parent.SpanId), (activity.OperationName, activity.Kind, activity.ParentSpanId));
        Assert.Equal(
            ["postcopy.advise", "postcopy.listen", "postcopy.running", "postcopy.paused", "postcopy.running", "postcopy.end"],
            activity.Events.Select(e => e.Name));
        Assert.Equal("the cable", activity.Events.ElementAt(3).Tags.Single(t => t.Key == "postcopy.reason").Value);
        Assert.Equal(4096L, activity.Events.ElementAt(3).Tags.Single(t => t.Key == "postcopy.missing.bytes").Value);
        Assert.Equal((8192L, 1L, 1L), (activity.GetTagItem("postcopy.bytes"), activity.GetTagItem("postcopy.faults"), activity.GetTagItem("postcopy.requests")));
        Assert.True(activity.GetTagItem("postcopy.blocktime") is double seconds && seconds >= 0);
        Assert.Equal(ActivityStatusCode.Unset, activity.Status);
    }

    [Fact(Timeout = Limit)]
    public async Task AMigrationThatIsGivenUpIsAnError()
    {
        using Recorder recorder = new("activity-lost");
        using DestinationBench bench = new(pages: 2, new PostcopyOptions { Name = "activity-lost" });
        await bench.Destination.CloseAsync(MissingPagePolicy.KeepWaiting);
        Activity activity = Assert.Single(recorder.Ended);
        Assert.Equal((ActivityStatusCode.Error, "closed with 2 pages missing (KeepWaiting)"), (activity.Status, activity.StatusDescription));
        Assert.Equal("postcopy_failed", activity.GetTagItem("error.type"));
        Assert.Equal("postcopy.failed", activity.Events.Last().Name);
    }

    private sealed class Recorder : IDisposable
    {
        private readonly ActivityListener _listener;

        internal Recorder(string vm)
        {
            _listener = new ActivityListener
            {
                ShouldListenTo = source => source.Name == "Postcopy.Uffd",
                Sample = (ref ActivityCreationOptions<ActivityContext> _) => ActivitySamplingResult.AllData,
                ActivityStopped = activity =>
                {
                    if (activity.GetTagItem("postcopy.vm") as string == vm)
                    {
                        Ended.Add(activity);
                    }
                },
            };
            ActivitySource.AddActivityListener(_listener);
        }

        internal List<Activity> Ended { get; } = [];

        public void Dispose() => _listener.Dispose();
    }
}
