using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd;

/// <content>
/// Whole stretches of zeros by MOVE of the kernel's huge zero page: no memory, one page table entry for 2 MiB, and some 3 us
/// where ZEROPAGE takes 40. The price comes later: the first write to one of them allocates 2 MiB, not 4 KiB.
/// </content>
public sealed partial class PostcopyPlacer
{
    private HugeZeroStaging? _zeroStaging = new();
    private bool _noHugeZeros;

    /// <summary>Zero pages of a window, when they come: those that are here already came twice, those that are placed later did not.</summary>
    internal void CountAgain(long pages) => Count(Counter.AlreadyReceivedPages, pages);

    /// <summary>Of a window's zero pages in a row, places those that somebody waits for.</summary>
    internal PlaceResult PlaceAwaitedZeros(RamBlock block, long firstPage, long pages)
    {
        PlaceResult worst = new(PlaceOutcome.Placed, 0, 0, default);
        long end = firstPage + pages;
        for (long at = firstPage; block.Requested.TryFindNextSet(at, end, out long page); at = page + 1)
        {
            if (IsWanted(block, FirstOfStretch(page)))
            {
                // Nobody can tell who of it is waited for: with the rest.
                page = Math.Min(page | (FillingStretch.Pages - 1), end - 1);
            }
            else if (!block.Received.Test(page))
            {
                Keep(ref worst, PlaceStagedZeros(block, page, 1));
            }
        }

        return worst;
    }

    /// <summary>Places a window's zero pages in a row; those that somebody waits for go first.</summary>
    internal PlaceResult PlaceZeros(RamBlock block, long firstPage, long pages)
    {
        long end = firstPage + pages;
        PlaceResult worst = PlaceAwaitedZeros(block, firstPage, pages);
        long first = MoveZeroStretches(block, firstPage, end, out long moved);
        if (moved == 0)
        {
            first = end;
        }

        Rest(firstPage, first);
        Rest(first + moved, end);
        return worst;

        // Nothing may be left: when the last pages of a guest went first, its memory is not registered any more.
        void Rest(long from, long to)
        {
            for (; from < to && block.Received.TryFindNextClearRun(from, to, out long start, out long count); from = start + count)
            {
                Keep(ref worst, PlaceStagedZeros(block, start, count));
            }
        }
    }

    /// <summary>
    /// Places zero pages that the fault thread may be placing as well. When its one was the last of the guest, the memory may not
    /// be registered any more, the descriptor closed: nothing is wrong then, all of it is there.
    /// </summary>
    internal PlaceResult PlaceStagedZeros(RamBlock block, long page, long pages)
    {
        int shift = block.PageSize.Shift;
        PlaceResult result;
        try
        {
            result = Run(block, page << shift, pages << shift, Kind.StagedZero, ZeroSource.Address);
            if (result.IsReceived || page < 0 || page + pages > block.PageCount || !block.Received.AllSet(page, pages))
            {
                return result;
            }
        }
        catch (ObjectDisposedException) when (block.Received.AllSet(page, pages))
        {
            // As above.
        }

        return new PlaceResult(PlaceOutcome.AlreadyReceived, (page + pages) << shift, 0, default);
    }

    private static void Keep(ref PlaceResult worst, PlaceResult result)
    {
        if (worst.IsReceived && !result.IsReceived)
        {
            worst = result;
        }
    }

    /// <summary>Moves as many whole stretches as possible out of a run of zero pages.</summary>
    /// <param name="block">Their block.</param>
    /// <param name="firstPage">The first zero page.</param>
    /// <param name="end">Beyond the last one.</param>
    /// <param name="moved">Pages that were placed.</param>
    /// <returns>Where the moved ones begin; what is before and behind them is left to the caller.</returns>
    private long MoveZeroStretches(RamBlock block, long firstPage, long end, out long moved)
    {
        moved = 0;
        long first = (firstPage + FillingStretch.Pages - 1) & ~(long)(FillingStretch.Pages - 1);
        if (!_options.HugeZeroPages || first + FillingStretch.Pages > end || Volatile.Read(ref _noHugeZeros))
        {
            return end;
        }

        // One channel at a time; another one finds ZEROPAGE fast enough.
        if (Interlocked.Exchange(ref _zeroStaging, null) is not { } staging)
        {
            return end;
        }

        try
        {
            while (first + moved + FillingStretch.Pages <= end)
            {
                long stretches = Math.Min((end - first - moved) / FillingStretch.Pages, HugeZeroStaging.Stretches);
                long pages = MoveZeros(block, first + moved, stretches, staging);
                moved += pages;
                if (pages != stretches * FillingStretch.Pages)
                {
                    break;
                }
            }

            return first;
        }
        finally
        {
            Volatile.Write(ref _zeroStaging, staging);
        }
    }

    private long MoveZeros(RamBlock block, long firstPage, long stretches, HugeZeroStaging staging)
    {
        long first = block.Claims.StretchOf(firstPage << PageSize.Host.Shift);
        long claimed = 0;
        while (claimed < stretches && CanMove(block, firstPage + (claimed * FillingStretch.Pages)) && !block.Requested.AnySet(firstPage + (claimed * FillingStretch.Pages), FillingStretch.Pages) && block.Claims.TryAcquireExclusive(first + claimed))
        {
            claimed++;
        }

        LayoutGate? gate = Gate;
        gate?.EnterShared();
        try
        {
            long pages = claimed * FillingStretch.Pages;

            // Looked at again with the claims, as in MoveStretch.
            if (claimed == 0 || block.Received.AnySet(firstPage, pages) || block.Primary is not { } mapping)
            {
                return 0;
            }

            if (!staging.TryMap(claimed))
            {
                Volatile.Write(ref _noHugeZeros, true);
                return 0;
            }

            return MoveZerosClaimed(block, mapping, firstPage << PageSize.Host.Shift, (nuint)(pages << PageSize.Host.Shift), staging, mayDiscard: gate is null);
        }
        finally
        {
            gate?.ExitShared();
            block.Claims.ReleaseExclusive(first, claimed);
        }
    }

    private long MoveZerosClaimed(RamBlock block, BlockMapping mapping, long start, nuint length, HugeZeroStaging staging, bool mayDiscard)
    {
        nuint destination = mapping.Address + (nuint)start;
        if (mayDiscard)
        {
            _ = Libc.madvise(destination, length, Libc.MADV_DONTNEED);
        }

        UffdResult kernel = mapping.Kernel.Move(destination, staging.Address, length, UffdMoveFlags.None);
        if (kernel.Outcome is not (UffdOutcome.Done or UffdOutcome.Partial))
        {
            // A queued event passes; the rest, such as locked guest memory, does not.
            block.RefusesStretches |= kernel.Outcome == UffdOutcome.InvalidArgument;
            return 0;
        }

        Step step = Placed(block, start, kernel, Kind.Zero, long.MaxValue);
        long pages = step.Outcome == PlaceOutcome.Placed ? (step.Next - start) >> PageSize.Host.Shift : 0;
        long stretches = PageTables.IsHuge(destination, length, zero: true) ? pages / FillingStretch.Pages : 0;
        Count(Counter.ZeroStretchesMoved, stretches);
        if (stretches * FillingStretch.Pages != pages)
        {
            // An older kernel keeps the page tables, and then this is slower than ZEROPAGE.
            Volatile.Write(ref _noHugeZeros, true);
        }

        return pages;
    }
}
