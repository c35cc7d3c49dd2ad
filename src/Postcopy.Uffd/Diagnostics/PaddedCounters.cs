using System.Runtime.InteropServices;

namespace Postcopy.Uffd;

/// <summary>
/// Counters that several threads add to: each thread adds in a row of its own cache lines, readers sum the rows. The
/// row is chosen by the thread, so two busy threads rarely share a line.
/// </summary>
internal sealed unsafe class PaddedCounters : IDisposable
{
    private const int Rows = 8;
    private const int LineBytes = 128;

    private readonly int _perRow;
    private long* _slots;

    internal PaddedCounters(int counters)
    {
        _perRow = ((counters * sizeof(long)) + LineBytes - 1) / LineBytes * LineBytes / sizeof(long);
        nuint bytes = (nuint)(Rows * _perRow * sizeof(long));
        _slots = (long*)NativeMemory.AlignedAlloc(bytes, LineBytes);
        NativeMemory.Clear(_slots, bytes);
    }

    ~PaddedCounters() => Release();

    internal void Add(int counter, long value)
    {
        int row = Environment.CurrentManagedThreadId & (Rows - 1);
        _ = Interlocked.Add(ref _slots[(row * _perRow) + counter], value);
    }

    internal long Sum(int counter)
    {
        long sum = 0;
        for (int row = 0; row < Rows; row++)
        {
            sum += Volatile.Read(ref _slots[(row * _perRow) + counter]);
        }

        return sum;
    }

    public void Dispose()
    {
        Release();
        GC.SuppressFinalize(this);
    }

    private void Release()
    {
        NativeMemory.AlignedFree(_slots);
        _slots = null;
    }
}
