using System.Runtime.InteropServices;
using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd;

/// <content>
/// Throwing pages away, so that they are missing again: private memory by MADV_DONTNEED, shared memory by
/// MADV_REMOVE (which punches the hole in the file behind it, hugetlbfs included). A range is cut at stretches of
/// 2 MiB and done with one call per piece of up to <see cref="StretchesPerCall"/> of them: a whole aligned stretch in
/// one call also frees its page table, which keeps the way to huge pages open (placement.md).
/// </content>
public sealed partial class RamBlock
{
    private const long StretchesPerCall = 512;

    private readonly Lock _discardLock = new();

    // Read by the fault thread without the lock: a REMOVE that we raise ourselves means missing, not zero (hazard H45).
    private long _ownDiscardStart = long.MaxValue;
    private long _ownDiscardEnd = -1;

    /// <summary>
    /// Throws the pages of the ranges away and clears their received and requested bits: they are missing, and a touch
    /// of them faults again once the block is registered.
    /// </summary>
    /// <param name="ranges">Ranges inside the block, multiples of its page size.</param>
    /// <exception cref="RamBlockException">A range is not acceptable; nothing was discarded.</exception>
    /// <exception cref="GuestMemoryException">The kernel refused.</exception>
    /// <exception cref="InvalidOperationException">A handler process serves the block (<see cref="HandoffOwner"/>).</exception>
    /// <remarks>
    /// Waits for leases on the range and for placements under way in it, so a thread that holds a lease on it must not
    /// call this. With <see cref="UffdFeatures.EventRemove"/>
    /// on, the call waits until the fault thread has read the event, so it must not be made on the fault thread.
    /// </remarks>
    public void Discard(params ReadOnlySpan<PageRange> ranges)
    {
        RequireOwn();
        if (IsHandedOver)
        {
            throw new InvalidOperationException($"RAM block '{Name}' is served by a handler process, which may be placing the same pages; discard before it is handed over or after the end.");
        }

        foreach (PageRange range in ranges)
        {
            CheckPages(range, "discard");
        }

        // Unmapped addresses may be somebody else's by now, and throwing away is not undone.
        using GuestMemory.Reference reference = new(Memory);
        lock (_discardLock)
        {
            foreach (PageRange range in ranges)
            {
                long step = StretchesPerCall << Claims.Shift;
                for (long at = range.Offset; at < range.End;)
                {
                    long next = Math.Min(range.End, (at & ~(step - 1)) + step);
                    DiscardPieceLocked(at, next);
                    at = next;
                }
            }
        }
    }

    /// <summary>True when the range is what a running <see cref="Discard"/> of ours throws away.</summary>
    internal bool IsOwnDiscard(long start, long end) =>
        start >= Volatile.Read(ref _ownDiscardStart) && end <= Volatile.Read(ref _ownDiscardEnd);

    internal void CheckPages(PageRange range, string operation)
    {
        if (!PageSize.IsAligned(range.Offset) || !PageSize.IsAligned(range.Length) || range.Length <= 0)
        {
            throw new RamBlockException(Name,
                $"The range to {operation} in RAM block '{Name}', {range.Length} bytes at offset {range.Offset}, is not made of whole pages of {PageSize}.");
        }

        if (range.Offset < 0 || range.Offset > UsedLength - range.Length)
        {
            throw new RamBlockException(Name,
                $"The range to {operation}, {range.Length} bytes at offset {range.Offset}, does not lie inside RAM block '{Name}' of {UsedLength} bytes.");
        }
    }

    private void DiscardPieceLocked(long start, long end)
    {
        long first = Claims.StretchOf(start);
        long count = Claims.StretchOf(end - 1) - first + 1;
        Claims.AcquireExclusive(first, count);
        try
        {
            // The bits go before the pages: a fault that comes in between finds "not received" and is served.
            ForgetPages(PageSize.IndexOf(start), (end - start) >> PageSize.Shift);
            Volatile.Write(ref _ownDiscardEnd, end);
            Volatile.Write(ref _ownDiscardStart, start);
            try
            {
                ThrowAway(start, end);
            }
            finally
            {
                // madvise comes back when its event is read, which may be before the reader has looked whose it is:
                // it does both under the gate, so passing through the gate waits for it (hazard H45).
                if (Gate is { } gate)
                {
                    gate.EnterShared();
                    gate.ExitShared();
                }

                Volatile.Write(ref _ownDiscardStart, long.MaxValue);
                Volatile.Write(ref _ownDiscardEnd, -1);
            }

            InterleavingPoint.Yield("discard.thrown");

            // A fault that was read while the bits changed may have found "requested" from the page's first life and
            // asked for nothing: its thread touches the page again, and finds both bits clear. Model: tests/models/discard.pml.
            WakeEverywhere(start, end - start);
        }
        finally
        {
            Claims.ReleaseExclusive(first, count);
        }
    }

    private void ThrowAway(long start, long end)
    {
        InterleavingPoint.Yield("discard.throw");
        int advice = IsShared ? Libc.MADV_REMOVE : Libc.MADV_DONTNEED;
        while (Libc.madvise(HostAddress + (nuint)start, (nuint)(end - start), advice) != 0)
        {
            int errno = Marshal.GetLastPInvokeError();
            if (errno is not (Errno.EINTR or Errno.EAGAIN))
            {
                throw new GuestMemoryException("madvise", errno,
                    $"Discarding {end - start} bytes at offset {start} of RAM block '{Name}' failed with {Errno.Describe(errno)}: " +
                    "EINVAL means locked memory (munlock it) or, for private huge pages, a kernel before 5.18.");
            }
        }
    }

    /// <summary>
    /// Clears received bits, and requested bits only where the page had been received: a page that is waited for stays
    /// requested, or its waiter's stall would never be closed.
    /// </summary>
    private void ForgetPages(long firstPage, long pages)
    {
        long cleared = Received.ClearRangeInto(firstPage, pages, Requested);
        _ = Interlocked.Add(ref _missing, cleared);
    }
}
