namespace Postcopy.Uffd;

/// <content>
/// "Already present". It does not wake (hazard H6), and on an exhausted pool of huge pages it is a lie (hazard H7).
/// </content>
public sealed partial class PostcopyPlacer
{
    /// <summary>
    /// For a thread that faulted on a page whose received bit is set: the page was placed since, or it was thrown away
    /// by an event or a plain madvise and reads as zeros from then on (hazard H5). Called by the fault thread, so it
    /// never waits.
    /// </summary>
    /// <param name="block">The block.</param>
    /// <param name="page">The page.</param>
    /// <param name="minor">The message said that the page is in the page cache.</param>
    /// <remarks>Ends no stall: the fault thread does, which alone knows of which it told the tracker.</remarks>
    /// <returns>
    /// Placed when zeros were put in; AlreadyPresent when it was there or the thread was woken to fault anew;
    /// AddressSpaceChanging, OutOfMemory and OutOfHugePages when it must be tried again later.
    /// </returns>
    internal PlaceOutcome ResolveReceived(RamBlock block, long page, bool minor)
    {
        if (block.Primary is not { } mapping)
        {
            return PlaceOutcome.NotRegistered;
        }

        long start = page << block.PageSize.Shift;
        long stretch = block.Claims.StretchOf(start);
        if (!block.Claims.TryAcquireShared(stretch))
        {
            // A discard is under way, perhaps waiting for a lease: a wake now would only make the thread spin.
            return PlaceOutcome.AddressSpaceChanging;
        }

        try
        {
            if (!block.Received.Test(page))
            {
                block.WakeEverywhere(start, block.PageSize.Bytes);
                return PlaceOutcome.AlreadyPresent;
            }

            return ResolveClaimed(block, mapping, start, minor);
        }
        finally
        {
            block.Claims.ReleaseShared(stretch);
        }
    }

    private PlaceOutcome ResolveClaimed(RamBlock block, BlockMapping mapping, long start, bool minor)
    {
        long length = block.PageSize.Bytes;
        Kind kind = minor ? Kind.PageCache : Kind.Zero;
        if (!minor && block.PageSize != PageSize.Host && mapping.Kernel.IsPresent(mapping.Address + (nuint)start))
        {
            // COPY of a huge page copies first and says "present" after: milliseconds, or seconds for 1 GiB.
            block.WakeEverywhere(start, length);
            return PlaceOutcome.AlreadyPresent;
        }

        UffdResult kernel = Apply(block, mapping, start, ZeroSource.Address, length, kind);
        switch (kernel.Outcome)
        {
            case UffdOutcome.Done:
                CountPlaced(block, kind, length);
                _ = Commit(block, start, length, wokenAt: null);
                return PlaceOutcome.Placed;
            case UffdOutcome.AlreadyPresent:
                return AlreadyPresent(block, mapping, start, kernel, endStalls: false).Outcome;
            case UffdOutcome.AddressSpaceChanging:
                return PlaceOutcome.AddressSpaceChanging;
            case UffdOutcome.OutOfMemory:
                return PlaceOutcome.OutOfMemory;
            case UffdOutcome.TargetGone:
                return PlaceOutcome.TargetGone;
            default:
                // Unmapped, moved, or gone from the page cache: the thread touches it again and learns what it is now.
                block.WakeEverywhere(start, length);
                return kernel.Outcome == UffdOutcome.NotRegistered ? PlaceOutcome.NotRegistered : PlaceOutcome.Unexpected;
        }
    }

    private Step AlreadyPresent(RamBlock block, BlockMapping mapping, long start, UffdResult kernel, bool endStalls = true)
    {
        nuint address = mapping.Address + (nuint)start;
        long length = block.PageSize.Bytes;
        PlaceOutcome confirmed = Confirm(block, mapping, address, (nuint)length);
        if (confirmed != PlaceOutcome.AlreadyPresent)
        {
            return new Step(start, confirmed, 0, kernel);
        }

        UffdResult woken = mapping.Kernel.Wake(address, (nuint)length);
        long wokenAt = _blocktime?.Now() ?? 0;
        long placed = Commit(block, start, length, endStalls ? wokenAt : null);
        Count(Counter.AlreadyPresentPages);
        return new Step(start + length, PlaceOutcome.AlreadyPresent, placed, woken);
    }

    private static PlaceOutcome Confirm(RamBlock block, BlockMapping mapping, nuint address, nuint length)
    {
        bool small = block.PageSize == PageSize.Host;
        if (block.IsShared && mapping.HasMinor)
        {
            // In the page cache, perhaps not mapped here: CONTINUE maps it, or says that there is nothing to map.
            return mapping.Kernel.Continue(address, length, UffdPlaceFlags.None).Outcome switch
            {
                UffdOutcome.Done or UffdOutcome.Partial or UffdOutcome.AlreadyPresent => PlaceOutcome.AlreadyPresent,
                UffdOutcome.NotInPageCache when !small => PlaceOutcome.OutOfHugePages,
                // Small pages cannot run out of a pool: somebody punched a hole in between, and the next try places.
                UffdOutcome.NotInPageCache or UffdOutcome.AddressSpaceChanging => PlaceOutcome.AddressSpaceChanging,
                UffdOutcome.OutOfMemory => PlaceOutcome.OutOfMemory,
                UffdOutcome.NotRegistered => PlaceOutcome.NotRegistered,
                UffdOutcome.TargetGone => PlaceOutcome.TargetGone,
                _ => PlaceOutcome.Unexpected,
            };
        }

        // A shared page in the page cache need not be in our page tables, and small pages cannot run out of a pool.
        return small || mapping.Kernel.IsPresent(address) ? PlaceOutcome.AlreadyPresent : PlaceOutcome.OutOfHugePages;
    }

    private PlaceResult PoisonMissing(RamBlock block, BlockMapping mapping)
    {
        int shift = block.PageSize.Shift;
        long poisoned = 0;
        block.MayBePoisoned = true;
        BackOff wait = default;
        long since = 0;
        for (long page = 0; block.Received.TryFindNextClearRun(page, block.PageCount, out long first, out long pages);)
        {
            nuint address = mapping.Address + (nuint)(first << shift);
            long length = pages << shift;
            UffdResult kernel = mapping.Kernel.Poison(address, (nuint)length, UffdPlaceFlags.None);
            while (kernel.Outcome == UffdOutcome.NotRegistered && length > block.PageSize.Bytes)
            {
                length = Shorter(length, block.PageSize);
                kernel = mapping.Kernel.Poison(address, (nuint)length, UffdPlaceFlags.None);
            }

            switch (kernel.Outcome)
            {
                case UffdOutcome.Done:
                case UffdOutcome.Partial:
                    foreach (BlockMapping mirror in block.Mirrors)
                    {
                        _ = mirror.Kernel.Poison(mirror.Address + (nuint)(first << shift), (nuint)kernel.Bytes, UffdPlaceFlags.None);
                    }

                    poisoned += kernel.Bytes >> shift;
                    page = first + (kernel.Bytes >> shift);
                    break;
                case UffdOutcome.AlreadyPresent:
                    _ = mapping.Kernel.Wake(address, (nuint)block.PageSize.Bytes);
                    page = first + 1;
                    break;
                case UffdOutcome.AddressSpaceChanging when !Expired(ref since):
                    wait.Pause();
                    page = first;
                    break;
                default:
                    return new PlaceResult(kernel.Outcome == UffdOutcome.TargetGone ? PlaceOutcome.TargetGone : PlaceOutcome.Unexpected,
                        first << shift, poisoned, kernel);
            }
        }

        return new PlaceResult(PlaceOutcome.Placed, block.UsedLength, poisoned, default);
    }
}
