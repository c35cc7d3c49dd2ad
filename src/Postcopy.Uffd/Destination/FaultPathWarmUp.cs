using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd;

/// <summary>
/// Takes one fault on scratch memory through the whole path, once per process, so that the first fault of a guest does
/// not wait for the JIT compiler: measured on the first fault of a fresh process, it did so for tens of milliseconds,
/// which no figure would have shown because the message was not read yet.
/// </summary>
internal static class FaultPathWarmUp
{
    private const int PatienceMilliseconds = 1000;

    private static int s_done;
    private static int s_wholeDone;

    /// <summary>Runs it if it has not run yet. Never fails: a host that cannot do this says so elsewhere.</summary>
    internal static void RunOnce(UffdOpenOptions open, StretchPlacement stretches)
    {
        RunOnce(ref s_done, open, StretchPlacement.Auto);
        if (stretches == StretchPlacement.WholeOnFault)
        {
            // Not all faults ask for a stretch: both ways.
            RunOnce(ref s_wholeDone, open, stretches);
        }
    }

    private static void RunOnce(ref int done, UffdOpenOptions open, StretchPlacement stretches)
    {
        if (Interlocked.Exchange(ref done, 1) != 0)
        {
            return;
        }

        try
        {
            Run(open, stretches);
        }
        catch (Exception e) when (e is UffdException or GuestMemoryException or RamBlockException)
        {
            // The destination's own steps report the same with their remedies.
        }
    }

    private static void Run(UffdOpenOptions open, StretchPlacement stretches)
    {
        int pageBytes = (int)PageSize.Host.Bytes;
        using GuestMemory memory = GuestMemory.Allocate(new GuestMemoryOptions { Length = 2 * PostcopyPlacer.StretchBytes });
        using RamBlockRegistry registry = new();
        using BlocktimeTracker tracker = new();
        using PostcopyPlacer placer = new(new PlacerOptions { Stretches = stretches }, tracker);
        using StagingWindow window = placer.CreateWindow();
        RamBlock block = registry.Add(new RamBlockSpec { Name = "warm-up", Memory = memory });
        using UffdHandle uffd = UffdHandle.Open(open);
        _ = uffd.Negotiate(UffdFeatures.None, UffdFeatures.ThreadId);
        block.Attach(uffd, uffd.Register(block.Range, UffdModes.Missing));

        using ManualResetEventSlim asked = new();

        // One that looks and does not sleep comes by the code of both.
        using FaultReader reader = new(new FaultReaderOptions { SpinLimit = Timeout.InfiniteTimeSpan }, placer, tracker, registry, gate: null, new Listener());
        reader.AddSource(new FaultSource(uffd, uffd.Descriptor, registry, isPrimary: true));
        reader.SetRequester(new Requester(asked));
        reader.Start();

        Thread toucher = new(() => Touch(tracker, block.HostAddress)) { IsBackground = true, Name = "postcopy-warm-up" };
        toucher.UnsafeStart();
        _ = asked.Wait(PatienceMilliseconds);
        if (stretches == StretchPlacement.WholeOnFault)
        {
            window.Add(block, 0, ZeroSource.Address);
        }

        window.Add(block, pageBytes, ZeroSource.Address);
        window.Add(block, 2 * pageBytes, 0);
        _ = window.Flush();
        window.Add(block, PostcopyPlacer.StretchBytes, ZeroSource.Address);
        _ = placer.TryPlaceStaged(block, PostcopyPlacer.StretchBytes >> PageSize.Host.Shift);
        _ = window.Flush();
        _ = placer.Place(block, 0, ZeroSource.Address, pageBytes);
        _ = placer.PlaceZero(block, 0, block.UsedLength);
        _ = toucher.Join(PatienceMilliseconds);
        reader.Stop();

        // Whatever happened, nobody may be left waiting when the memory goes.
        uffd.Unregister(block.Range);
        block.Detach();
        toucher.Join();
    }

    private static unsafe void Touch(BlocktimeTracker tracker, nuint address)
    {
        _ = tracker.AddVcpu(HostThread.CurrentId);
        byte one;
        _ = Libc.memcpy((nuint)(&one), address, 1);
    }

    private sealed class Requester(ManualResetEventSlim asked) : IPageRequester
    {
        public RequestOutcome TryRequest(in PageRequest request)
        {
            asked.Set();
            return RequestOutcome.Sent;
        }
    }

    private sealed class Listener : IFaultObserver
    {
        public void OnReaderFailed(Exception e)
        {
        }

        public void OnUnservable(RamBlock? block, long offset, PlaceOutcome outcome)
        {
        }

        public void OnPriorityRefused(string what, int value, int errno)
        {
        }
    }
}
