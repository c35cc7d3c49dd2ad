using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd;

/// <content>
/// Whole stretches of 2 MiB by MOVE of a huge page (placement.md): 2-16 us instead of 512 copies, and the guest keeps huge
/// pages. The kernel splits the huge page silently, and takes 420 us, when the stretch has a page table: one fault is enough.
/// So the stretch, still empty, is discarded whole right before, which frees the table (Linux 6.14). An exclusive claim keeps
/// all other placements out meanwhile: a page placed in between would be lost with its received bit set.
/// </content>
public sealed partial class PostcopyPlacer
{
    /// <summary>Bytes of a stretch: what <see cref="PlaceStretch"/> takes.</summary>
    public const long StretchBytes = HugeStaging.Bytes;

    // Of its latest moves so many more were split than were not that it is not worth it: an older kernel keeps the tables.
    private const int MostSplits = 8;

    private readonly HugeStaging?[] _pool = new HugeStaging?[4];

    /// <summary>Whether it places whole stretches of 2 MiB as huge pages.</summary>
    public StretchPlacement Stretches => _options.Stretches;

    /// <summary>How long an awaited page that has come is kept back for its stretch (<see cref="PlacerOptions.StretchPatience"/>).</summary>
    public TimeSpan StretchPatience => _options.StretchPatience;

    internal long StretchPatienceNanoseconds { get; }

    /// <summary>True when awaited pages of the block may be kept back for their stretch.</summary>
    internal bool KeepsAwaited(RamBlock block) =>
        _options.Stretches == StretchPlacement.WholeOnFault && block.PageSize.Bytes == HostPageAssembler.TargetPageBytes;

    internal long MostZeros => _options.StretchZeroPages;

    /// <summary>
    /// Places a whole stretch of 2 MiB that the caller has at hand: as one huge page where
    /// <see cref="PlacerOptions.Stretches"/> says that this can be, by COPY in runs else.
    /// </summary>
    /// <param name="block">An attached block.</param>
    /// <param name="offset">Bytes from its start, page-aligned; a multiple of 2 MiB for a huge page.</param>
    /// <param name="source"><see cref="StretchBytes"/> bytes. Safety: as for <see cref="Place"/>.</param>
    /// <returns>As for <see cref="Place"/>.</returns>
    /// <remarks>Any number of threads. Up to four huge pages of staging are kept for the next call.</remarks>
    public PlaceResult PlaceStretch(RamBlock block, long offset, nuint source)
    {
        ArgumentNullException.ThrowIfNull(block);
        if (offset < 0 || offset % StretchBytes != 0 || !MayMove(block, offset >> PageSize.Host.Shift))
        {
            return Place(block, offset, source, StretchBytes);
        }

        HugeStaging staging = Rent();
        try
        {
            staging.FollowPolicyOf(block);
            if (!staging.TryBack())
            {
                CountFallback(StretchFallback.Unbacked);
                return Place(block, offset, source, StretchBytes);
            }

            CountStretch();
            staging.Soil();
            _ = Libc.memcpy(staging.Address, source, (nuint)StretchBytes);
            long moved = MoveStretch(block, offset >> PageSize.Host.Shift, staging.Address, zeros: 0, out StretchFallback reason);
            if (moved == FillingStretch.Pages)
            {
                staging.Moved();
                return new PlaceResult(PlaceOutcome.Placed, offset + StretchBytes, moved, default);
            }

            CountFallback(reason);
            staging.Renew();
            PlaceResult rest = Place(block, offset, source, StretchBytes);
            return rest with { PagesPlaced = rest.PagesPlaced + moved };
        }
        finally
        {
            GiveBack(staging);
        }
    }

    /// <summary>True when a stretch may become a huge page: its kind, its place, and nothing of it touched or placed.</summary>
    internal bool MayMove(RamBlock block, long firstPage) =>
        _options.Stretches != StretchPlacement.Off && CanMove(block, firstPage) && MayWait(block, firstPage);

    /// <summary>True when nobody waits for a single page of the stretch.</summary>
    private bool MayWait(RamBlock block, long firstPage) =>
        !block.Requested.AnySet(firstPage, FillingStretch.Pages) || IsWanted(block, firstPage);

    /// <summary>True when a fault on the page, just marked requested, is to ask for its whole stretch.</summary>
    internal bool WantsStretch(RamBlock block, long page, out long firstPage)
    {
        firstPage = FirstOfStretch(page);
        return _options.Stretches == StretchPlacement.WholeOnFault && Gate is null && !block.SplitsTouchedStretches && CanMove(block, firstPage) && block.Requested.CountSet(firstPage, FillingStretch.Pages) == 1;
    }

    /// <summary>True when who waits for a page of the stretch waits for all: it was asked for as a whole, and nothing of it is there.</summary>
    internal bool IsWhole(RamBlock block, long firstPage) =>
        IsWanted(block, firstPage) && !block.Received.AnySet(firstPage, FillingStretch.Pages);

    /// <summary>True when all of a stretch was asked for at once, so that nobody can tell who of it is waited for.</summary>
    internal bool IsWanted(RamBlock block, long firstPage) =>
        _options.Stretches == StretchPlacement.WholeOnFault && firstPage + FillingStretch.Pages <= block.PageCount && block.Requested.AllSet(firstPage, FillingStretch.Pages);

    /// <summary>
    /// True when what the source left of a stretch is asked for: not where answers come on a channel of their own, and would not meet it.
    /// </summary>
    internal bool AsksForRests =>
        _options.Stretches == StretchPlacement.WholeOnFault && Observer is not null && Volatile.Read(ref _windows).Length == 1;

    internal void AskForRest(RamBlock block, long firstPage)
    {
        // Else whoever asked for all of it has told the source already, or owes it.
        if (AsksForRests && !IsWanted(block, firstPage))
        {
            Observer!.OnStretchLeft(block, firstPage);
        }
    }

    internal static long FirstOfStretch(long page) => page & ~(long)(FillingStretch.Pages - 1);

    private static bool CanMove(RamBlock block, long firstPage) =>
        !block.RefusesStretches && block.PageSize.Bytes == HostPageAssembler.TargetPageBytes &&
        PageSize.Host.Bytes == HostPageAssembler.TargetPageBytes && !block.IsShared && !block.IsForeign && !block.MayBePoisoned &&
        block.Primary is { } mapping && mapping.Supports(UffdOperations.Move) &&
        ((mapping.Address + (nuint)(firstPage << PageSize.Host.Shift)) & (HugeStaging.Bytes - 1)) == 0 &&
        firstPage + FillingStretch.Pages <= block.PageCount &&
        !block.Received.AnySet(firstPage, FillingStretch.Pages);

    internal void CountStretch() => Count(Counter.StretchesBegun);

    internal void CountFallback(StretchFallback reason) => Count(Counter.StretchesDisturbed + (int)reason);

    /// <summary>Moves a filled huge page to where nothing is. Never waits for long.</summary>
    /// <param name="block">A block of which the stretch may be moved.</param>
    /// <param name="firstPage">Its first page.</param>
    /// <param name="staging">The huge page.</param>
    /// <param name="zeros">Pages of it that are zero, for the statistics.</param>
    /// <param name="reason">Why fewer than all pages were moved.</param>
    /// <returns>Pages that are placed, from the first on.</returns>
    internal long MoveStretch(RamBlock block, long firstPage, nuint staging, int zeros, out StretchFallback reason)
    {
        long start = firstPage << PageSize.Host.Shift;
        long stretch = block.Claims.StretchOf(start);
        reason = StretchFallback.Disturbed;
        if (!TryClaim(block, stretch))
        {
            return 0;
        }

        LayoutGate? gate = Gate;
        gate?.EnterShared();
        try
        {
            // Looked at again with the claim: an urgent page may have come, or an event thrown pages away.
            if (block.Received.AnySet(firstPage, FillingStretch.Pages) || block.Primary is not { } mapping)
            {
                return 0;
            }

            return MoveClaimed(block, mapping, start, staging, zeros, mayDiscard: gate is null, ref reason);
        }
        finally
        {
            gate?.ExitShared();
            block.Claims.ReleaseExclusive(stretch, 1);
        }
    }

    private static bool TryClaim(RamBlock block, long stretch)
    {
        // Whoever holds it shared is placing a page there, and then it is too late; or only looks whether one is there.
        BackOff wait = default;
        for (int i = 0; i < 4; i++)
        {
            if (block.Claims.TryAcquireExclusive(stretch))
            {
                return true;
            }

            wait.Pause();
        }

        return false;
    }

    private long MoveClaimed(RamBlock block, BlockMapping mapping, long start, nuint staging, int zeros, bool mayDiscard, ref StretchFallback reason)
    {
        nuint destination = mapping.Address + (nuint)start;
        const nuint length = HugeStaging.Bytes;

        // With events on, our own madvise would wait for our own reader, which may wait for the gate we hold.
        if (mayDiscard)
        {
            _ = Libc.madvise(destination, length, Libc.MADV_DONTNEED);
        }

        long calledAt = _blocktime?.Now() ?? long.MaxValue;
        UffdResult kernel = mapping.Kernel.Move(destination, staging, length, UffdMoveFlags.None);
        if (kernel.Outcome is not (UffdOutcome.Done or UffdOutcome.Partial))
        {
            reason = StretchFallback.Refused;

            // Permanent: locked guest memory, another protection. A queued event and a fork pass.
            block.RefusesStretches |= kernel.Outcome == UffdOutcome.InvalidArgument;
            return 0;
        }

        Step step = Placed(block, start, kernel, Kind.Move, calledAt);
        Count(Counter.MovedZeros, zeros);
        if (step.Outcome != PlaceOutcome.Placed || kernel.Outcome == UffdOutcome.Partial)
        {
            reason = StretchFallback.Refused;
            return (step.Next - start) >> PageSize.Host.Shift;
        }

        bool touched = IsWanted(block, start >> PageSize.Host.Shift);
        int splits = touched ? block.TouchedSplits : block.StretchSplits;
        if (PageTables.IsHuge(destination, length))
        {
            Count(Counter.StretchesMoved);
            splits = Math.Max(0, splits - 1);
        }
        else
        {
            // Its pages are placed all the same.
            Count(Counter.StretchesSplit);
            splits++;
        }

        if (touched)
        {
            // Those that nobody has touched may move as before.
            block.TouchedSplits = splits;
            block.SplitsTouchedStretches |= splits >= MostSplits;
        }
        else
        {
            block.StretchSplits = splits;
            block.RefusesStretches |= splits >= MostSplits;
        }

        return FillingStretch.Pages;
    }

    private HugeStaging Rent()
    {
        for (int i = 0; i < _pool.Length; i++)
        {
            if (Interlocked.Exchange(ref _pool[i], null) is { } staging)
            {
                return staging;
            }
        }

        return new HugeStaging();
    }

    private void GiveBack(HugeStaging staging)
    {
        for (int i = 0; i < _pool.Length; i++)
        {
            if (Interlocked.CompareExchange(ref _pool[i], staging, null) is null)
            {
                return;
            }
        }

        staging.Dispose();
    }

    private void FreePool()
    {
        for (int i = 0; i < _pool.Length; i++)
        {
            Interlocked.Exchange(ref _pool[i], null)?.Dispose();
        }

        Interlocked.Exchange(ref _zeroStaging, null)?.Dispose();
    }
}
