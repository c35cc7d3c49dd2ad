using Postcopy.Uffd.Tests.Destination;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Faults;

/// <summary>A fault thread that looks for its messages and never sleeps: what else it must see meanwhile. Alone, because each keeps a processor busy.</summary>
[Collection(TimedTests.Name)]
public sealed class LookingReaderTests
{
    private const int Limit = 60_000;
    private static readonly FaultReaderOptions s_looking = new() { SpinLimit = Timeout.InfiniteTimeSpan };

    [Fact(Timeout = Limit)]
    public async Task WhatIsAskedForAheadIsSentBetweenTwoFaults() => await Task.Run(() =>
    {
        using DestinationBench bench = new(options: new PostcopyOptions { FaultReader = s_looking });
        FaultingThread reader = bench.Read(3);
        Assert.Equal(3, bench.Requester.Take().Offset / 4096);
        _ = bench.Place(3);
        Assert.Equal(DestinationBench.FirstByte(3), (byte)reader.Result);

        bench.Destination.Prefetch(bench.Block, new PageRange(8 * 4096, 2 * 4096));

        Assert.Equal((8, 2), (bench.Requester.Take().Offset / 4096, bench.Block.Requested.CountSet() - 1));
    });

    [Fact(Timeout = Limit)]
    public async Task TheWatchdogSeesAStuckFaultBetweenTwoLooks() => await Task.Run(() =>
    {
        Requires.Userfaultfd();
        using RawMapping memory = RawMapping.Anonymous(8);
        using RamBlockRegistry registry = new();
        using PostcopyPlacer placer = new();
        using UffdHandle uffd = UffdHandle.Open(Requires.AnyKind);
        RamBlock block = registry.Add(new RamBlockSpec { Name = "ram", HostAddress = memory.Address, UsedLength = (long)memory.Length });
        _ = uffd.Negotiate(UffdFeatures.None, UffdFeatures.ThreadId);
        block.Attach(uffd, uffd.Register(block.Range, UffdModes.Missing));
        using ReaderBench other = new();

        // Nearly always within a look.
        SlowKernel kernel = new(uffd) { AfterRead = _ => SlowKernel.Spend(TimeSpan.FromMicroseconds(20)) };
        using FaultReader reader = new(s_looking, placer, null, registry, null, other);
        reader.AddSource(new FaultSource(kernel, uffd.Descriptor, registry, isPrimary: true));
        reader.SetRequester(other);
        reader.Start();
        FaultingThread waiter = FaultingThread.Read(memory.Page(3));
        Deadline.Until(() => block.Requested.Test(3), "a request");

        // As if it had been placed: nothing is open, and the thread waits all the same.
        nuint source = Pages.Make(3, 4096);
        Assert.Equal(UffdOutcome.Done, uffd.Copy(memory.Page(3), source, 4096, UffdPlaceFlags.DontWake).Outcome);
        Pages.Free(source);
        Assert.Equal(1, block.MarkReceived(3, 1));
        List<StuckFault> reports = [];
        long start = Environment.TickCount64;
        while (reports.Count == 0 && Environment.TickCount64 - start < Limit / 4)
        {
            // One look less than after which everybody is woken on suspicion. On a busy machine the reader may be away within a look.
            StuckFaultWatch watch = new(reader, registry, TimeProvider.System, TimeSpan.FromTicks(1), reports.Add);
            for (int look = 1; look < StuckFaultWatch.LooksBeforeProbe; look++)
            {
                Thread.Sleep(1);
                watch.Look();
            }
        }

        _ = uffd.Wake(memory.Address, memory.Length);
        Assert.Equal(DestinationBench.FirstByte(3), (byte)waiter.Result);
        Assert.Equal(new StuckFault(StuckFaultKind.Unknown, 1), Assert.Single(reports));
        reader.Stop();
        block.Detach();
    });

    [Fact(Timeout = Limit)]
    public async Task WhatALookHasReadIsServedByAReaderThatIsStopped() => await Task.Run(() =>
    {
        using ReaderBench bench = new();
        using ManualResetEventSlim stopped = new();
        FaultReader reader = null!;
        int looks = 0;
        int evenTurns = 0;
        SlowKernel kernel = new(bench.Kernel)
        {
            AfterRead = messages =>
            {
                // What the watchdog goes by: an even turn says that nothing has been read that is not served.
                evenTurns += reader.TurnCount % 2 == 0 ? 1 : 0;
                if (++looks == 3)
                {
                    _ = bench.Touch(5);
                }

                if (messages > 0)
                {
                    // Stop waits for the end of this thread; what it sets first is all that is wanted here.
                    new Thread(() =>
                    {
                        reader.Stop();
                        stopped.Set();
                    }) { IsBackground = true }.Start();
                    Thread.Sleep(200);
                }
            },
        };
        using (reader = new FaultReader(s_looking, bench.Placer, null, bench.Registry, null, bench))
        {
            reader.AddSource(new FaultSource(kernel, -1, bench.Registry, isPrimary: true));
            reader.SetRequester(bench);
            reader.Start();
            Assert.True(stopped.Wait(Limit / 2));
        }

        Assert.Equal(5 * bench.Block.PageSize.Bytes, Assert.Single(bench.Requests).Offset);
        Assert.Equal((4, 0, 0), (looks, evenTurns, reader.TurnCount % 2));
    });

    [Theory(Timeout = Limit)]
    [InlineData(true, 1)]
    [InlineData(false, 2)]
    public async Task WithEventsOrSeveralDescriptorsPollSaysWhatThereIs(bool events, int descriptors) => await Task.Run(() =>
    {
        // These can never be polled with success: a read would be one that nobody announced.
        using ReaderBench bench = new();
        int reads = 0;
        SlowKernel kernel = new(bench.Kernel) { AfterRead = _ => reads++ };
        using (FaultReader reader = new(s_looking, bench.Placer, null, bench.Registry, events ? new LayoutGate() : null, bench))
        {
            for (int i = 0; i < descriptors; i++)
            {
                reader.AddSource(new FaultSource(kernel, -1, bench.Registry, isPrimary: i == 0));
            }

            reader.Start();
            Thread.Sleep(100);
        }

        Assert.Equal(0, reads);
    });
}
