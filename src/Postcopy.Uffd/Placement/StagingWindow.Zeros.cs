namespace Postcopy.Uffd;

/// <content>
/// Zero pages, run by run: a few bytes of the stream each, so thousands can be in the receive buffer at once. They have no
/// source that must not be overwritten. So nobody takes one: while a run is in sight both threads may place pages of it,
/// the received bits and the kernel tell who came first, and an entry is used again when no visitor is inside.
/// </content>
public sealed partial class StagingWindow
{
    private const int MostZeroRuns = 1 << 20;

    private ZeroRun[] _zeros = new ZeroRun[64];
    private int _zeroCount;

    // All of one block, each behind the one before: a stream's order, and thousands of them are searched by halves.
    private bool _zerosInOrder;
    private long _zeroPages;

    // The fault thread's calls that may be looking at runs.
    private int _zeroVisitors;

    private struct ZeroRun
    {
        internal RamBlock? Block;
        internal long First;
        internal long Pages;
    }

    /// <summary>
    /// Content begins a stretch, zeros only continue one: most zeros belong to none. Zeros that a stretch begins with are taken
    /// out of their run when its content comes.
    /// </summary>
    private int AddToStretch(RamBlock block, long page, nuint source, int pages)
    {
        if (_stretches is null || (source == 0 && !_stretches.TakesZeros(block, page, pages)))
        {
            return 0;
        }

        if (source != 0)
        {
            BeginWithZeros(block, page);
        }

        long again = source == 0 ? block.Received.CountSet(page, Math.Min(pages, FillingStretch.Pages - (page & (FillingStretch.Pages - 1)))) : 0;
        int taken = _stretches.Add(block, page, source, pages, ref _worst);
        if (taken > 0)
        {
            _placer.CountAgain(again);
        }

        return taken;
    }

    /// <summary>Content comes behind the last run of zeros, inside a stretch that begins in that run.</summary>
    private void BeginWithZeros(RamBlock block, long page)
    {
        int zeros = (int)(page & (FillingStretch.Pages - 1));
        if (_stretches is null || _zeroCount == 0 || zeros == 0 || zeros > _placer.MostZeros || _stretches.Holds(block, page))
        {
            return;
        }

        ref ZeroRun last = ref _zeros[_zeroCount - 1];
        if (last.Block == block && last.First + last.Pages == page && last.Pages >= zeros &&
            _stretches.Add(block, page - zeros, 0, zeros, ref _worst) == zeros)
        {
            // In sight twice for a moment: who of two comes later finds the page received.
            Volatile.Write(ref last.Pages, last.Pages - zeros);
            _zeroPages -= zeros;
        }
    }

    /// <summary>The stretch that the last zeros begin is likely to go on: they wait for the next pages with it.</summary>
    private void KeepLastZeros()
    {
        if (_zeroCount > 0)
        {
            ref ZeroRun last = ref _zeros[_zeroCount - 1];
            BeginWithZeros(last.Block!, last.First + last.Pages);
        }
    }

    private void AddZeros(RamBlock block, long page, int pages)
    {
        _placer.CountAgain(block.Received.CountSet(page, pages));
        if (!TryExtendZeros(block, page, pages))
        {
            if (_zeroCount == _zeros.Length)
            {
                // Release: the runs are copied before the array is seen; whoever has the old one finds in it what was there.
                ZeroRun[] more = new ZeroRun[_zeros.Length * 2];
                _zeros.CopyTo(more, 0);
                Volatile.Write(ref _zeros, more);
            }

            // Before the count, as the fields: who finds more runs does not search them as if they were in order.
            bool inOrder = _zeroCount == 0 || (_zerosInOrder && _zeros[_zeroCount - 1].Block == block && _zeros[_zeroCount - 1].First + _zeros[_zeroCount - 1].Pages <= page);
            Volatile.Write(ref _zerosInOrder, inOrder);
            ref ZeroRun run = ref _zeros[_zeroCount];
            run.Block = block;
            run.First = page;
            InterleavingPoint.Yield("zeros.first");
            run.Pages = pages;
            InterleavingPoint.Yield("zeros.fields");

            // Release: the fields are written before the count; the partner is the acquire read of TryPlaceZeroNow.
            Volatile.Write(ref _zeroCount, _zeroCount + 1);
        }

        _zeroPages += pages;
        InterleavingPoint.Yield("zeros.staged");

        // Full fence, as in AddUnstaged.
        Interlocked.MemoryBarrier();
        Keep(ref _worst, _placer.PlaceAwaitedZeros(block, page, pages));
    }

    /// <summary>Pages that continue the run added last: most of them do.</summary>
    private bool TryExtendZeros(RamBlock block, long page, int pages)
    {
        if (_zeroCount == 0)
        {
            return false;
        }

        ref ZeroRun last = ref _zeros[_zeroCount - 1];
        if (last.Block != block || last.First + last.Pages != page)
        {
            return false;
        }

        Volatile.Write(ref last.Pages, last.Pages + pages);
        return true;
    }

    /// <summary>For the fault thread: as <see cref="TryPlaceNow"/>, for a page of zeros.</summary>
    private bool TryPlaceZeroNow(RamBlock block, long page)
    {
        if (Volatile.Read(ref _zeroCount) == 0)
        {
            return false;
        }

        // Full fence: announced before the look at the runs. The partner is the end of PlaceZeroRuns, which hides them and then
        // looks for visitors. Model: tests/models/zeros.pml.
        _ = Interlocked.Increment(ref _zeroVisitors);
        InterleavingPoint.Yield("zeros.announced");
        bool found = false;
        int count = Volatile.Read(ref _zeroCount);
        InterleavingPoint.Yield("zeros.counted");

        // After the count: an array that has so many.
        ZeroRun[] zeros = Volatile.Read(ref _zeros);
        bool inOrder = Volatile.Read(ref _zerosInOrder);
        int first = inOrder ? LastNotBehind(zeros, count, page) : 0;
        for (int i = first; i < (inOrder ? first + 1 : count); i++)
        {
            ref ZeroRun run = ref zeros[i];
            ulong at = unchecked((ulong)(page - run.First));
            InterleavingPoint.Yield("zeros.start");
            if (at < (ulong)Volatile.Read(ref run.Pages) && run.Block == block)
            {
                InterleavingPoint.Yield("zeros.found");
                _ = _placer.TryPlaceStaged(block, page, 0);
                found = true;
                break;
            }
        }

        _ = Interlocked.Decrement(ref _zeroVisitors);
        return found;
    }

    /// <summary>Where runs that are in order have the page, if one of them has it.</summary>
    private static int LastNotBehind(ZeroRun[] zeros, int count, long page)
    {
        int from = 0;
        for (int end = count; end - from > 1;)
        {
            int middle = from + ((end - from) / 2);
            (from, end) = zeros[middle].First <= page ? (middle, end) : (from, middle);
        }

        return from;
    }

    private void PlaceZeroRuns(ref PlaceResult worst)
    {
        if (_zeroCount == 0)
        {
            return;
        }

        for (int i = 0; i < _zeroCount; i++)
        {
            // In sight until it is placed: a page that is touched meanwhile need not wait for the runs before it.
            ref ZeroRun run = ref _zeros[i];
            Keep(ref worst, _placer.PlaceZeros(run.Block!, run.First, run.Pages));
            Volatile.Write(ref run.Pages, 0);
        }

        InterleavingPoint.Yield("zeros.placed");
        Volatile.Write(ref _zeroCount, 0);
        _zeroPages = 0;

        // Full fence: hidden before the look at the visitors, who are announced before they look at the runs.
        Interlocked.MemoryBarrier();
        BackOff wait = default;
        while (Volatile.Read(ref _zeroVisitors) != 0)
        {
            // One placement at the most.
            wait.Pause();
        }
    }
}
