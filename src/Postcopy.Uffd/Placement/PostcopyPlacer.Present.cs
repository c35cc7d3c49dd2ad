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
    /// <returns>Placed when zeros were put in; AlreadyPresent when it was there; else what stands in the way.</returns>
    internal PlaceOutcome ResolveReceived(RamBlock block, long page, bool minor)
    {
        if (block.Primary is not { } mapping)
        {
            return PlaceOutcome.NotRegistered;
        }

        long start = page << block.PageSize.Shift;
        long stretch = block.Claims.StretchOf(start);
        nuint address = mapping.Address + (nuint)start;
        nuint length = (nuint)block.PageSize.Bytes;
        if (!block.Claims.TryAcquireShared(stretch))
        {
            // A discard is under way; the thread faults again and then finds the page missing.
            _ = mapping.Kernel.Wake(address, length);
            return PlaceOutcome.AlreadyPresent;
        }

        try
        {
            if (!block.Received.Test(page))
            {
                _ = mapping.Kernel.Wake(address, length);
                return PlaceOutcome.AlreadyPresent;
            }

            UffdResult kernel = Apply(mapping, start, ZeroSource.Address, (long)length, minor ? Kind.PageCache : Kind.Zero);
            switch (kernel.Outcome)
            {
                case UffdOutcome.Done:
                    _ = Commit(block, start, (long)length, _blocktime?.Now() ?? 0);
                    Count(Counter.Operations);
                    Count(minor ? Counter.ContinuedBytes : Counter.ZeroBytes, (long)length);
                    return PlaceOutcome.Placed;
                case UffdOutcome.AlreadyPresent:
                    return AlreadyPresent(block, mapping, start, kernel).Outcome;
                case UffdOutcome.AddressSpaceChanging:
                    return PlaceOutcome.AddressSpaceChanging;
                case UffdOutcome.OutOfMemory:
                    return PlaceOutcome.OutOfMemory;
                case UffdOutcome.TargetGone:
                    return PlaceOutcome.TargetGone;
                case UffdOutcome.NotRegistered:
                    return PlaceOutcome.NotRegistered;
                default:
                    _ = mapping.Kernel.Wake(address, length);
                    return PlaceOutcome.Unexpected;
            }
        }
        finally
        {
            block.Claims.ReleaseShared(stretch);
        }
    }

    private Step AlreadyPresent(RamBlock block, BlockMapping mapping, long start, UffdResult kernel)
    {
        nuint address = mapping.Address + (nuint)start;
        long length = block.PageSize.Bytes;
        if (!Confirm(block, mapping, address, (nuint)length))
        {
            return new Step(start, PlaceOutcome.OutOfHugePages, 0, kernel);
        }

        UffdResult woken = mapping.Kernel.Wake(address, (nuint)length);
        long wokenAt = _blocktime?.Now() ?? 0;
        long placed = Commit(block, start, length, wokenAt);
        Count(Counter.AlreadyPresentPages);
        return new Step(start + length, PlaceOutcome.AlreadyPresent, placed, woken);
    }

    private static bool Confirm(RamBlock block, BlockMapping mapping, nuint address, nuint length)
    {
        if (block.IsShared && mapping.HasMinor)
        {
            // In the page cache, perhaps not mapped here: CONTINUE maps it, or says that there is nothing to map.
            UffdResult result = mapping.Kernel.Continue(address, length, UffdPlaceFlags.None);
            return result.Outcome is UffdOutcome.Done or UffdOutcome.Partial or UffdOutcome.AlreadyPresent;
        }

        // A shared page in the page cache need not be in our page tables, and small pages cannot run out of a pool.
        bool canLie = block.PageSize != PageSize.Host;
        return !canLie || mapping.Kernel.IsPresent(address);
    }

    private PlaceResult PoisonMissing(RamBlock block, BlockMapping mapping)
    {
        int shift = block.PageSize.Shift;
        long poisoned = 0;
        BackOff wait = default;
        long since = 0;
        for (long page = 0; block.Received.TryFindNextClearRun(page, block.PageCount, out long first, out long pages);)
        {
            nuint address = mapping.Address + (nuint)(first << shift);
            UffdResult kernel = mapping.Kernel.Poison(address, (nuint)(pages << shift), UffdPlaceFlags.None);
            switch (kernel.Outcome)
            {
                case UffdOutcome.Done:
                case UffdOutcome.Partial:
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
