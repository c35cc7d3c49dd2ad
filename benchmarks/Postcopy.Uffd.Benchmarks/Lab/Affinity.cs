using Postcopy.Uffd.Benchmarks.Interop;

namespace Postcopy.Uffd.Benchmarks.Lab;

/// <summary>
/// Where threads run. A toucher and its handler on one processor hand over in 6-8 us, on two in 30-65 us (measured), and
/// the scheduler changes its mind in the middle of a row: unpinned, a ratio says where threads happened to be. A vCPU
/// that runs has a processor of its own, so the toucher gets the first and the handler the second.
/// </summary>
internal static unsafe class Affinity
{
    internal const int Toucher = 0;
    internal const int Handler = 1;
    private const int Words = 16;

    internal static bool IsPossible => Environment.ProcessorCount > 1;

    /// <summary>Keeps a thread on one processor; 0 is the calling thread.</summary>
    internal static void Pin(int thread, int processor)
    {
        if (!IsPossible)
        {
            return;
        }

        ulong* mask = stackalloc ulong[Words];
        new Span<ulong>(mask, Words).Clear();
        mask[processor / 64] = 1UL << (processor % 64);
        Set(thread, mask);
    }

    /// <summary>Keeps the calling thread on one processor until the result is disposed.</summary>
    internal static Restore PinCaller(int processor)
    {
        ulong* mask = stackalloc ulong[Words];
        new Span<ulong>(mask, Words).Clear();
        if (Libc.sched_getaffinity(0, Words * sizeof(ulong), mask) < 0)
        {
            throw new LabException("sched_getaffinity failed.");
        }

        ulong[] before = new Span<ulong>(mask, Words).ToArray();
        Pin(0, processor);
        return new Restore(before);
    }

    private static void Set(int thread, ulong* mask)
    {
        if (Libc.sched_setaffinity(thread, Words * sizeof(ulong), mask) != 0)
        {
            throw new LabException("sched_setaffinity failed: the lab needs the first two processors; see taskset(1).");
        }
    }

    internal readonly ref struct Restore(ulong[] mask)
    {
        public void Dispose()
        {
            fixed (ulong* p = mask)
            {
                Set(0, p);
            }
        }
    }
}
