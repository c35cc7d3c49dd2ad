using BenchmarkDotNet.Attributes;

namespace Postcopy.Uffd.Benchmarks;

/// <summary>What blocktime costs on the fault path and on placements, with other vCPUs waiting for other pages.</summary>
[MemoryDiagnoser]
public class TrackerBenchmarks
{
    private static readonly nuint s_page = unchecked((nuint)0x7000_0000_0000);

    private BlocktimeTracker? _tracker;

    /// <summary>vCPU slots; all but one wait for other pages.</summary>
    [Params(1, 64, 1024)]
    public int Slots { get; set; }

    /// <summary>Adds the slots and lets all but the first wait.</summary>
    [GlobalSetup]
    public void Setup()
    {
        _tracker = new BlocktimeTracker(new BlocktimeOptions { MaxSlots = 1024 });
        for (uint i = 1; i <= Slots; i++)
        {
            _ = _tracker.AddVcpu(i);
        }

        for (uint i = 2; i <= Slots; i++)
        {
            _tracker.Confirm(_tracker.Begin(i, s_page + (i * 0x10000), _tracker.Now()).Ticket);
        }
    }

    /// <summary>One fault from its message to its end, clock reads included.</summary>
    [Benchmark]
    public void BeginConfirmEnd()
    {
        _tracker!.Confirm(_tracker.Begin(1, s_page, _tracker.Now()).Ticket);
        _tracker.End(s_page, 4096, _tracker.Now());
    }

    /// <summary>A placement that nobody waits for.</summary>
    [Benchmark]
    public void EndWithoutWaiter() => _tracker!.End(s_page + 0x8000, 4096, 0);
}
