using System.Runtime.CompilerServices;

namespace Postcopy.Uffd;

/// <content>The loop behind every placement: run by run, stretch by stretch.</content>
public sealed partial class PostcopyPlacer
{
    private const long Unstamped = long.MinValue;

    /// <summary>One turn of the loop: where to go on, what happened, and how many pages are new.</summary>
    private readonly record struct Step(long Next, PlaceOutcome Outcome, long Placed, UffdResult Kernel);

    private PlaceResult Run(RamBlock block, long offset, long length, Kind kind, nuint source)
    {
        PageSize size = block.PageSize;
        if (offset < 0 || length <= 0 || offset > block.UsedLength - length || !size.IsAligned(offset) || !size.IsAligned(length) ||
            block.Primary is null)
        {
            return new PlaceResult(PlaceOutcome.InvalidRange, offset, 0, default);
        }

        if (length == size.Bytes && PlaceOne(block, offset, kind, source) is var changed and >= 0)
        {
            return new PlaceResult(PlaceOutcome.Placed, offset + length, changed, default);
        }

        long end = offset + length;
        long placed = 0;
        bool present = false;
        bool received = false;
        BackOff wait = default;
        long since = 0;
        for (long at = offset; at < end;)
        {
            nuint from = kind == Kind.Copy ? source + (nuint)(at - offset) : source;
            Step step = ClaimedStep(block, at, end, kind, from);
            at = step.Next;
            placed += step.Placed;
            if (step.Outcome <= PlaceOutcome.AlreadyPresent)
            {
                since = 0;
                wait = default;
            }

            switch (step.Outcome)
            {
                case PlaceOutcome.Placed:
                    break;
                case PlaceOutcome.AlreadyReceived:
                    received = true;
                    break;
                case PlaceOutcome.AlreadyPresent:
                    present = true;
                    break;
                case var _ when MayPass(step.Outcome) && !Expired(ref since):
                    // Nothing announces the end of a change; the claims are given back meanwhile, and the received
                    // bits are looked at again before the next try (hazards H3, H4).
                    Count(Counter.Pauses);
                    wait.Pause();
                    break;
                default:
                    return new PlaceResult(step.Outcome, at, placed, step.Kernel);
            }
        }

        PlaceOutcome outcome = present ? PlaceOutcome.AlreadyPresent
            : received && placed == 0 ? PlaceOutcome.AlreadyReceived
            : PlaceOutcome.Placed;
        return new PlaceResult(outcome, end, placed, default);
    }

    /// <summary>
    /// One missing page that the kernel takes, without the search for runs and the steps of the loop. They cost little by
    /// themselves, and 200 ns where a processor comes back from the kernel to code that is spread over many methods
    /// (docs/performance.md). All else, and every other answer of the kernel, is the loop's.
    /// </summary>
    /// <returns>As <see cref="Commit"/>; -1 when nothing is done.</returns>
    private long PlaceOne(RamBlock block, long offset, Kind kind, nuint source)
    {
        long stretch = block.Claims.StretchOf(offset);
        if (Gate is not null || !block.Claims.TryAcquireShared(stretch))
        {
            return -1;
        }

        long changed = -1;
        long bytes = block.PageSize.Bytes;
        long page = offset >> block.PageSize.Shift;
        try
        {
            if (block.Primary is { } mapping && !block.Received.Test(page))
            {
                long calledAt = block.Requested.Test(page) ? Stamp() : long.MaxValue;
                if (Apply(block, mapping, offset, source, bytes, kind).Outcome == UffdOutcome.Done)
                {
                    long wokenAt = block.Requested.Test(page) ? Stamp() : Unstamped;
                    CountPlaced(block, kind, bytes);

                    // As in Commit, where the fence is explained.
                    InterleavingPoint.Yield("place.done");
                    changed = block.MarkReceived(page, 1);
                    InterleavingPoint.Yield("place.received");
                    if (block.Mirrors is { Length: > 0 } mirrors)
                    {
                        MapMirrors(mirrors, offset, bytes);
                    }

                    bool awaited = block.Requested.Test(page);
                    if (awaited)
                    {
                        EndStalls(block, offset, bytes, wokenAt, calledAt);
                    }

                    Observer?.OnPlaced(block, awaited);
                }
            }
        }
        finally
        {
            // Also when the descriptor was closed meanwhile.
            block.Claims.ReleaseShared(stretch);
        }

        return changed;
    }

    /// <summary>
    /// What another try can cure. "Out of huge pages" passes when another placer is just copying the same page; "not
    /// registered" passes while events are followed, because the one that explains it may not be read yet.
    /// </summary>
    private bool MayPass(PlaceOutcome outcome) => outcome switch
    {
        PlaceOutcome.AddressSpaceChanging or PlaceOutcome.OutOfMemory or PlaceOutcome.OutOfHugePages => true,
        PlaceOutcome.NotRegistered => Gate is not null,
        _ => false,
    };

    private bool Expired(ref long since)
    {
        if (since == 0)
        {
            since = _options.TimeProvider.GetTimestamp();
            return false;
        }

        return _options.TimeProvider.GetElapsedTime(since) > _options.Deadline;
    }

    private Step ClaimedStep(RamBlock block, long at, long end, Kind kind, nuint source)
    {
        long stretch = block.Claims.StretchOf(at);
        long pieceEnd = Math.Min(end, (stretch + 1) << block.Claims.Shift);
        LayoutGate? gate = Gate;
        block.Claims.AcquireShared(stretch);
        gate?.EnterShared();
        try
        {
            // Read under the gate: a remap event may have moved the block.
            return block.Primary is { } mapping
                ? PlaceStep(block, mapping, at, pieceEnd, kind, source)
                : new Step(at, PlaceOutcome.NotRegistered, 0, default);
        }
        finally
        {
            gate?.ExitShared();
            block.Claims.ReleaseShared(stretch);
        }
    }

    /// <summary>Places the next run of missing pages of one stretch by one ioctl.</summary>
    private Step PlaceStep(RamBlock block, BlockMapping mapping, long at, long end, Kind kind, nuint source)
    {
        // COPY into a page that is there costs as much as a copy (measured): look at the bitmap first.
        int shift = block.PageSize.Shift;
        long firstPage = at >> shift;
        if (!block.Received.TryFindNextClearRun(firstPage, end >> shift, out long page, out long pages))
        {
            CountAgain(kind, (end - at) >> shift);
            return new Step(end, PlaceOutcome.AlreadyReceived, 0, default);
        }

        long start = page << shift;
        long length = pages << shift;
        if (kind == Kind.Copy)
        {
            source += (nuint)(start - at);
            length = Math.Min(length, Math.Max(block.PageSize.Bytes, _options.CopyRunBytes & ~(block.PageSize.Bytes - 1)));
        }

        if (page != firstPage)
        {
            CountAgain(kind, page - firstPage);
        }

        long calledAt = StampIfAwaited(block, page, length >> shift) ?? long.MaxValue;
        UffdResult kernel = Apply(block, mapping, start, source, length, kind);
        while (kernel.Outcome == UffdOutcome.NotRegistered && length > block.PageSize.Bytes)
        {
            length = Shorter(length, block.PageSize);
            kernel = Apply(block, mapping, start, source, length, kind);
        }

        switch (kernel.Outcome)
        {
            case UffdOutcome.Done:
            case UffdOutcome.Partial:
                return Placed(block, start, kernel, kind, calledAt);
            case UffdOutcome.AlreadyPresent:
                return AlreadyPresent(block, mapping, start, kernel);
            case UffdOutcome.AddressSpaceChanging:
                return new Step(start, PlaceOutcome.AddressSpaceChanging, 0, kernel);
            case UffdOutcome.OutOfMemory:
                return new Step(start, PlaceOutcome.OutOfMemory, 0, kernel);
            case UffdOutcome.NotRegistered:
                return new Step(start, PlaceOutcome.NotRegistered, 0, kernel);
            case UffdOutcome.TargetGone:
                return new Step(start, PlaceOutcome.TargetGone, 0, kernel);
            case UffdOutcome.SourceUnreadable:
            case UffdOutcome.BeyondEndOfFile:
            case UffdOutcome.NotInPageCache:
            case UffdOutcome.SourcePoisoned:
                return new Step(start, PlaceOutcome.SourceUnreadable, 0, kernel);
            default:
                return new Step(start, PlaceOutcome.Unexpected, 0, kernel);
        }
    }

    private void CountAgain(Kind kind, long pages)
    {
        if (kind != Kind.StagedZero)
        {
            Count(Counter.AlreadyReceivedPages, pages);
        }
    }

    /// <summary>
    /// No ioctl reaches over the border of two mappings (ENOENT), and a block may have several: NUMA policies, advice and
    /// protection split one (hazard H16). Half as long as often as it takes finds the border; for one page ENOENT is true.
    /// </summary>
    private static long Shorter(long length, PageSize pageSize) => Math.Max(pageSize.Bytes, pageSize.AlignDown(length / 2));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static UffdResult Apply(RamBlock block, BlockMapping mapping, long start, nuint source, long length, Kind kind)
    {
        nuint destination = mapping.Address + (nuint)start;
        return kind switch
        {
            Kind.Zero or Kind.StagedZero when mapping.Supports(UffdOperations.Zeropage) && !block.MayBePoisoned => mapping.Kernel.Zeropage(destination, (nuint)length, UffdPlaceFlags.None),
            Kind.Zero or Kind.StagedZero => mapping.Kernel.Copy(destination, source, (nuint)Math.Min(length, ZeroSource.Bytes), UffdPlaceFlags.None),
            Kind.PageCache => mapping.Kernel.Continue(destination, (nuint)length, UffdPlaceFlags.None),
            _ => mapping.Kernel.Copy(destination, source, (nuint)length, UffdPlaceFlags.None),
        };
    }

    private Step Placed(RamBlock block, long start, UffdResult kernel, Kind kind, long calledAt)
    {
        long wokenAt = StampIfAwaited(block, start >> block.PageSize.Shift, Math.Max(1, kernel.Bytes >> block.PageSize.Shift)) ?? Unstamped;

        // The kernel stops between pages of its own; whole pages of the block are what counts, and for huge pages
        // it never stops inside one.
        long bytes = kernel.Bytes & ~(block.PageSize.Bytes - 1);
        if (bytes == 0)
        {
            return new Step(start, PlaceOutcome.Unexpected, 0, kernel);
        }

        CountPlaced(block, kind, bytes);
        long placed = Commit(block, start, bytes, wokenAt, calledAt);
        if (kernel.Outcome == UffdOutcome.Partial)
        {
            Count(Counter.PartialOperations);
        }

        return new Step(start + bytes, PlaceOutcome.Placed, placed, kernel);
    }

    /// <summary>Most pages are waited for by nobody, and two looks at the clock cost more than all bookkeeping of a page.</summary>
    private long? StampIfAwaited(RamBlock block, long page, long pages) => IsAwaited(block, page, pages) ? Stamp() : null;

    private long Stamp() => _blocktime?.Now() ?? Unstamped;

    private static bool IsAwaited(RamBlock block, long page, long pages) =>
        pages == 1 ? block.Requested.Test(page) : block.Requested.AnySet(page, pages);

    /// <summary>
    /// The pages are in the guest's memory: received, mirrors, then whoever waits. A thread of a mirror that faults
    /// before "received" is set waits, and the wake that comes after finds it; one that faults later is served by the
    /// fault thread. The other way round it could fall between the two.
    /// </summary>
    /// <param name="block">The block.</param>
    /// <param name="start">Offset of the first page.</param>
    /// <param name="bytes">Whole pages.</param>
    /// <param name="wokenAt">
    /// When their waiters were woken; null when the caller ends their stalls. <see cref="Unstamped"/> when nobody was known to
    /// wait: who is known of by now was read of meanwhile, and now is as good a time.
    /// </param>
    /// <param name="calledAt">Before the ioctl, when that is known: how late the stamp can be.</param>
    private long Commit(RamBlock block, long start, long bytes, long? wokenAt, long calledAt = long.MaxValue)
    {
        int shift = block.PageSize.Shift;
        long page = start >> shift;
        long pages = bytes >> shift;

        // A full fence between "received" and the look at "requested"; the partner is FaultReader.ServeMissing.
        // Model: tests/models/fault.pml.
        InterleavingPoint.Yield("place.done");
        long changed = block.MarkReceived(page, pages);
        InterleavingPoint.Yield("place.received");
        if (block.Mirrors is { Length: > 0 } mirrors)
        {
            MapMirrors(mirrors, start, bytes);
        }

        bool awaited = IsAwaited(block, page, pages);
        if (awaited)
        {
            EndStalls(block, start, bytes, wokenAt, calledAt);
        }

        Observer?.OnPlaced(block, awaited);
        return changed;
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private void EndStalls(RamBlock block, long start, long bytes, long? wokenAt, long calledAt)
    {
        Count(Counter.AwaitedPlacements);
        if (wokenAt is { } at && _blocktime is { } blocktime)
        {
            blocktime.End(block.HostAddress + (nuint)start, (nuint)bytes, at == Unstamped ? blocktime.Now() : at, calledAt);
        }
    }

    private static void MapMirrors(BlockMapping[] mirrors, long start, long bytes)
    {
        foreach (BlockMapping mirror in mirrors)
        {
            MapMirror(mirror, start, bytes);
        }
    }

    /// <summary>
    /// The page is in the page cache now. A mapping registered for minor faults needs CONTINUE; in one registered for
    /// missing faults a woken thread finds the page by itself.
    /// </summary>
    private static void MapMirror(BlockMapping mirror, long start, long bytes)
    {
        nuint address = mirror.Address + (nuint)start;
        for (long done = 0; mirror.HasMinor && done < bytes;)
        {
            UffdResult result = mirror.Kernel.Continue(address + (nuint)done, (nuint)(bytes - done), UffdPlaceFlags.None);
            if (result.Bytes == 0)
            {
                break;
            }

            done += result.Bytes;
        }

        // What CONTINUE left out is there already or will fault again: the wake makes sure nobody sleeps on it.
        _ = mirror.Kernel.Wake(address, (nuint)bytes);
    }
}
