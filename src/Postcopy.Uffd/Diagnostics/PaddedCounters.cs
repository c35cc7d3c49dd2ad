using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Postcopy.Uffd;

/// <summary>
/// Counters that several threads add to: each thread adds in a row of its own cache lines, readers sum the rows. A thread
/// that finds the row of its number free keeps it and adds without an interlocked operation (5 to 8 ns, and two or three of
/// them a page); the others share the last row.
/// </summary>
internal sealed unsafe class PaddedCounters : IDisposable
{
    private const int Rows = 8;
    private const int LineBytes = 128;

    // The first word of a row: the thread that keeps it, 0 for nobody. Numbers are given again only when a thread is gone.
    private const int Owner = 0;

    private readonly int _perRow;
    private long* _slots;

    internal PaddedCounters(int counters)
    {
        _perRow = (((counters + 1) * sizeof(long)) + LineBytes - 1) / LineBytes * LineBytes / sizeof(long);
        nuint bytes = (nuint)((Rows + 1) * _perRow * sizeof(long));
        _slots = (long*)NativeMemory.AlignedAlloc(bytes, LineBytes);
        NativeMemory.Clear(_slots, bytes);
    }

    ~PaddedCounters() => Release();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal void Add(int counter, long value)
    {
        int thread = Environment.CurrentManagedThreadId;
        long* row = _slots + ((thread & (Rows - 1)) * _perRow);
        if (Volatile.Read(ref row[Owner]) == thread || TryKeep(row, thread))
        {
            // One writer; the partner is the acquire read in Sum.
            ref long slot = ref row[1 + counter];
            Volatile.Write(ref slot, slot + value);
        }
        else
        {
            _ = Interlocked.Add(ref _slots[(Rows * _perRow) + 1 + counter], value);
        }
    }

    internal long Sum(int counter)
    {
        long sum = 0;
        for (int row = 0; row <= Rows; row++)
        {
            sum += Volatile.Read(ref _slots[(row * _perRow) + 1 + counter]);
        }

        return sum;
    }

    public void Dispose()
    {
        Release();
        GC.SuppressFinalize(this);
    }

    private static bool TryKeep(long* row, int thread) => Volatile.Read(ref row[Owner]) == 0 && Interlocked.CompareExchange(ref row[Owner], thread, 0) == 0;

    private void Release()
    {
        NativeMemory.AlignedFree(_slots);
        _slots = null;
    }
}
