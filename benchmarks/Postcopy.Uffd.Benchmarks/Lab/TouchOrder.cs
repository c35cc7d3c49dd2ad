using System.Runtime.InteropServices;
using Postcopy.Uffd.Benchmarks.Compare;
using Postcopy.Uffd.Benchmarks.Interop;

namespace Postcopy.Uffd.Benchmarks.Lab;

/// <summary>Touches pages in a seeded random order and times each, by the same C loop whoever serves them.</summary>
internal sealed unsafe class TouchOrder : IDisposable
{
    private readonly NativeBuffer<uint> _pages;
    private readonly NativeBuffer<ulong> _samples;

    internal TouchOrder(long pages, int seed = 1)
        : this(Shuffled(0, (int)pages, seed))
    {
    }

    internal TouchOrder(ReadOnlySpan<uint> order)
    {
        _pages = new NativeBuffer<uint>(order.Length);
        _samples = new NativeBuffer<ulong>(order.Length);
        order.CopyTo(_pages.Span);
    }

    internal uint* Pages => _pages.Pointer;

    /// <summary>What the last touches took.</summary>
    internal Span<ulong> Samples => _samples.Span;

    internal long Count => _pages.Count;

    /// <summary>Touches the pages of the region at the address; blocks while they are missing.</summary>
    internal Span<ulong> Touch(nuint address, long count, TimeSpan gap = default, bool pinned = true)
    {
        if (pinned)
        {
            using Affinity.Restore restore = Affinity.PinCaller(Affinity.Toucher);
            return Touch(address, count, gap, pinned: false);
        }

        NativeLab.lab_touch(address, _pages.Pointer, count, (ulong)gap.TotalNanoseconds, _samples.Pointer);
        return _samples.Span[..(int)count];
    }

    /// <summary>Numbers in a seeded random order.</summary>
    internal static uint[] Shuffled(int first, int count, int seed)
    {
        uint[] order = [.. Enumerable.Range(first, count).Select(i => (uint)i)];
        new Random(seed).Shuffle(order);
        return order;
    }

    internal Sample Measure(nuint address, bool pinned = true) => Sample.ByMedian(Touch(address, Count, default, pinned));

    public void Dispose()
    {
        _pages.Dispose();
        _samples.Dispose();
    }
}
