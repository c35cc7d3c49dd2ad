namespace Postcopy.Uffd;

/// <content>The channels' staging windows, as the fault thread sees them.</content>
public sealed partial class PostcopyPlacer
{
    private readonly Lock _windowsLock = new();
    private StagingWindow[] _windows = [];

    /// <summary>A staging window for one channel; dispose it with the channel.</summary>
    /// <param name="stretches">
    /// Gather whole stretches of 2 MiB (<see cref="PlacerOptions.Stretches"/>): for a channel that brings memory in order, not
    /// for one of single urgent pages (with <see cref="StretchPlacement.WholeOnFault"/> those come in order, too).
    /// </param>
    /// <param name="capacity">
    /// Pages of content that it holds: as many as the channel can have received at once, so that all of them are in the fault
    /// thread's sight before the first is placed. 28 bytes each.
    /// </param>
    /// <exception cref="ArgumentOutOfRangeException">The capacity is 0 or less.</exception>
    public StagingWindow CreateWindow(bool stretches = true, int capacity = StagingWindow.DefaultCapacity)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(capacity);
        StagingWindow window = new(this, stretches && _options.Stretches != StretchPlacement.Off, capacity);
        lock (_windowsLock)
        {
            Volatile.Write(ref _windows, [.. _windows, window]);
        }

        return window;
    }

    internal void RemoveWindow(StagingWindow window)
    {
        lock (_windowsLock)
        {
            Volatile.Write(ref _windows, [.. _windows.Where(w => w != window)]);
        }
    }

    /// <summary>For the fault thread: places a page that some channel has already received. Never waits.</summary>
    /// <param name="block">The block.</param>
    /// <param name="page">The page.</param>
    /// <param name="patient">Leaves it where it is while the stretch that was asked for as a whole is filling.</param>
    /// <returns>True when one has it, so that the source need not be asked: when it is not received now, it is to be tried again.</returns>
    internal bool TryPlaceStaged(RamBlock block, long page, bool patient = false)
    {
        foreach (StagingWindow window in Volatile.Read(ref _windows))
        {
            if (window.TryPlaceNow(block, page, patient))
            {
                return true;
            }
        }

        return false;
    }

    /// <summary>One page, one try: what stands in the way is left to the channel's own placement, or to another try.</summary>
    internal bool TryPlaceStaged(RamBlock block, long page, nuint source)
    {
        long start = page << block.PageSize.Shift;
        long stretch = block.Claims.StretchOf(start);
        if (block.Primary is not { } mapping || !block.Claims.TryAcquireShared(stretch))
        {
            return false;
        }

        // No layout gate: only this thread, the one that reads the events, closes it.
        try
        {
            Step step = PlaceStep(block, mapping, start, start + block.PageSize.Bytes, source == 0 ? Kind.StagedZero : Kind.Copy,
                source == 0 ? ZeroSource.Address : source);
            if (step.Outcome > PlaceOutcome.AlreadyPresent)
            {
                return false;
            }

            if (step.Placed > 0)
            {
                Count(Counter.StagedOnFault);
            }

            return true;
        }
        finally
        {
            block.Claims.ReleaseShared(stretch);
        }
    }
}
