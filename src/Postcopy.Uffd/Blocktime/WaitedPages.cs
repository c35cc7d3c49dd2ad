namespace Postcopy.Uffd;

/// <summary>
/// The fixed-size filter of pages that somebody waits for: a placement that nobody waits for reads one counter.
/// </summary>
/// <remarks>
/// Two levels. Counters hashed by page answer "nobody" (a storm of vCPUs on one page moves one counter, the others stand still).
/// Behind a counter that shows a waiter stands a bucket of one cache line: seven entries with the exact page and the waiter,
/// and the number of waiters that found the bucket full; only those make the caller look at every waiter.
/// Entries are added by the fault reader alone and removed by the one party that closed the episode, so an entry needs
/// no compare-and-swap. Order: the reader writes entry, counter, state (full fence) and re-checks "received";
/// the placer sets "received", passes a full fence and reads counter, entry, state. One of the two sees the other.
/// </remarks>
internal sealed class WaitedPages
{
    private const int EntriesPerBucket = 8;
    private const int OverflowEntry = EntriesPerBucket - 1;
    private const int WaiterBits = 16;

    // Pairs of entered (even, written by the reader alone) and gone (odd, interlocked): they differ while somebody waits.
    // One interlocked operation less per fault than a single counter, and neither can be driven below 0.
    private readonly int[] _counters;
    private readonly long[] _buckets;
    private readonly int _counterShift;
    private readonly int _bucketShift;

    internal WaitedPages(int slots)
    {
        // Sixteen counters and one bucket per slot: with every slot waiting, 6 of 100 unrelated placements look into a bucket.
        int bits = 6;
        while ((1 << bits) < slots)
        {
            bits++;
        }

        _counters = new int[32 << bits];
        _buckets = new long[EntriesPerBucket << bits];
        _counterShift = 64 - (bits + 4);
        _bucketShift = 64 - bits;
    }

    /// <summary>Whether somebody may wait for the page; exact when it says no (placer's side, after its fence).</summary>
    internal bool MayWait(nuint pageNumber)
    {
        int counter = Counter(Hash(pageNumber));
        // Gone before entered, both acquire: whoever was counted as gone had entered before, so a waiter always makes a difference.
        // Partners: the release store in Add, the increment in Remove.
        int gone = Volatile.Read(ref _counters[counter + 1]);
        return Volatile.Read(ref _counters[counter]) != gone;
    }

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
        // Release, partner of the acquire read in MayWait. The full fence that the bargain with the placer needs is the
        // exchange of the state that follows.
        ref int entered = ref _counters[Counter(hash)];
        Volatile.Write(ref entered, unchecked(entered + 1));
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
        Interlocked.Increment(ref _counters[Counter(Hash(pageNumber)) + 1]);
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

    /// <summary>How many waiters are entered: 0 when nobody waits. For tests.</summary>
    internal long CountAll()
    {
        long sum = 0;
        for (int i = 0; i < _counters.Length; i += 2)
        {
            int gone = Volatile.Read(ref _counters[i + 1]);
            int waiting = unchecked(Volatile.Read(ref _counters[i]) - gone);
            if (waiting < 0)
            {
                throw new InvalidOperationException($"Counter {i / 2} of the waited-for pages is {waiting}.");
            }

            sum += waiting;
        }

        foreach (long entry in _buckets)
        {
            sum += entry != 0 ? 1 : 0;
        }

        return sum;
    }

    private int Counter(ulong hash) => (int)(hash >> _counterShift) * 2;

    // Two rounds: after one multiplication alone, waiters at an even stride (vCPU stacks) pile up in few buckets.
    private static ulong Hash(nuint pageNumber)
    {
        ulong mixed = unchecked(pageNumber * 0x9E3779B97F4A7C15ul);
        return unchecked((mixed ^ (mixed >> 32)) * 0xD6E8FEB86659FD93ul);
    }
}
