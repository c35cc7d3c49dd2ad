namespace Postcopy.Uffd;

/// <summary>
/// The fixed-size filter of pages that somebody waits for: a placement that nobody waits for reads one counter.
/// </summary>
/// <remarks>
/// Two levels. Counters hashed by page answer "nobody" (a storm of vCPUs on one page fills one counter, the others stay 0).
/// Behind a counter that is not 0 stands a bucket of one cache line: seven entries with the exact page and the waiter,
/// and the number of waiters that found the bucket full; only those make the caller look at every waiter.
/// Entries are added by the fault reader alone and removed by the one party that closed the episode, so an entry needs
/// no compare-and-swap. Order: the reader writes entry, counter (full fence), state (full fence) and re-checks "received";
/// the placer sets "received", passes a full fence and reads counter, entry, state. One of the two sees the other.
/// </remarks>
internal sealed class WaitedPages
{
    private const int EntriesPerBucket = 8;
    private const int OverflowEntry = EntriesPerBucket - 1;
    private const int WaiterBits = 16;

    private readonly int[] _counters;
    private readonly long[] _buckets;
    private readonly int _counterShift;
    private readonly int _bucketShift;

    internal WaitedPages(int slots)
    {
        // Four counters and one bucket per slot: with every slot waiting, a fifth of the unrelated placements look into a bucket.
        int bits = 6;
        while ((1 << bits) < slots)
        {
            bits++;
        }

        _counters = new int[4 << bits];
        _buckets = new long[EntriesPerBucket << bits];
        _counterShift = 64 - (bits + 2);
        _bucketShift = 64 - bits;
    }

    /// <summary>Whether somebody may wait for the page; exact when it says no (placer's side, after its fence).</summary>
    // Read: acquire, partner of the increment in Add.
    internal bool MayWait(nuint pageNumber) => Volatile.Read(ref _counters[Hash(pageNumber) >> _counterShift]) != 0;

    /// <summary>Enters a waiter; the answer is to be kept for <see cref="Remove"/>. Reader only.</summary>
    internal int Add(nuint pageNumber, int waiter)
    {
        ulong hash = Hash(pageNumber);
        int first = (int)(hash >> _bucketShift) * EntriesPerBucket;
        int found = -1;
        for (int i = first; i < first + OverflowEntry; i++)
        {
            // Acquire, partner of the release store in Remove.
            if (Volatile.Read(ref _buckets[i]) == 0)
            {
                // Release, partner of the acquire read in EntryWaiter.
                Volatile.Write(ref _buckets[i], ((long)pageNumber << WaiterBits) | (uint)(waiter + 1));
                found = i;
                break;
            }
        }

        if (found < 0)
        {
            Interlocked.Increment(ref _buckets[first + OverflowEntry]);
            found = ~(first + OverflowEntry);
        }

        InterleavingPoint.Yield("filter.add");
        // Full fence, partner of the acquire read in MayWait.
        Interlocked.Increment(ref _counters[hash >> _counterShift]);
        return found;
    }

    /// <summary>Takes a waiter out; exactly the party that closed the episode calls this, once.</summary>
    internal void Remove(nuint pageNumber, int entry)
    {
        if (entry >= 0)
        {
            // Release, partner of the acquire read in Add.
            Volatile.Write(ref _buckets[entry], 0);
        }
        else
        {
            Interlocked.Decrement(ref _buckets[~entry]);
        }

        InterleavingPoint.Yield("filter.remove");
        Interlocked.Decrement(ref _counters[Hash(pageNumber) >> _counterShift]);
    }

    /// <summary>The first entry of the page's bucket; the entries up to <see cref="EntriesInBucket"/> further belong to it.</summary>
    internal int Bucket(nuint pageNumber) => (int)(Hash(pageNumber) >> _bucketShift) * EntriesPerBucket;

    internal static int EntriesInBucket => OverflowEntry;

    /// <summary>The waiter in that entry if it waits for the page, else -1.</summary>
    internal int EntryWaiter(int entry, nuint pageNumber)
    {
        // Acquire, partner of the release store in Add.
        long word = Volatile.Read(ref _buckets[entry]);
        return word != 0 && (nuint)(word >> WaiterBits) == pageNumber ? (int)(word & ((1 << WaiterBits) - 1)) - 1 : -1;
    }

    /// <summary>Whether waiters of this bucket found no entry, so that only a look at every waiter finds them.</summary>
    // Acquire, partner of the interlocked increment in Add.
    internal bool HasOverflow(int bucket) => Volatile.Read(ref _buckets[bucket + OverflowEntry]) != 0;

    /// <summary>The sum of all counters: 0 when nobody waits. For tests.</summary>
    internal long CountAll()
    {
        long sum = 0;
        for (int i = 0; i < _counters.Length; i++)
        {
            int value = Volatile.Read(ref _counters[i]);
            if (value < 0)
            {
                throw new InvalidOperationException($"Counter {i} of the waited-for pages is {value}.");
            }

            sum += value;
        }

        return sum;
    }

    private static ulong Hash(nuint pageNumber) => unchecked(pageNumber * 0x9E3779B97F4A7C15ul);
}
