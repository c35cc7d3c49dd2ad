using BenchmarkDotNet.Attributes;

namespace Postcopy.Uffd.Benchmarks;

/// <summary>The operations of the received and requested bitmaps.</summary>
[MemoryDiagnoser]
public class BitmapBenchmarks : IDisposable
{
    private const long Pages = 1 << 20;

    private readonly PageBitmap _bitmap = new(Pages);
    private long _next;

    /// <summary>One bit, as a fault or a placement of one page does it.</summary>
    [Benchmark]
    public bool TestAndSet() => _bitmap.TestAndSet(_next++ & (Pages - 1));

    /// <summary>The look before a placement.</summary>
    [Benchmark]
    public bool Test() => _bitmap.Test(_next++ & (Pages - 1));

    /// <summary>A stretch of 2 MiB, as a run of zero pages does it.</summary>
    [Benchmark]
    public long SetRangeOf512() => _bitmap.SetRange((_next += 512) & (Pages - 1) & ~511L, 512);

    /// <summary>Frees the bitmap.</summary>
    [GlobalCleanup]
    public void Dispose()
    {
        _bitmap.Dispose();
        GC.SuppressFinalize(this);
    }
}
