using System.Numerics;
using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd;

/// <summary>
/// A stretch of 2 MiB that one channel is receiving: its pages gather in a huge page of our own, which is moved into the
/// guest when all are there. Until then the fault thread sees them, and places the one that a thread touches.
/// </summary>
/// <remarks>
/// <para>One thread, the channel's, adds and ends; the fault thread takes single pages. Of each page there are two bits:
/// <em>here</em> (its content is in staging and not in the guest yet) and <em>free</em> (nobody has it in hand). Who
/// clears "free" places the page and clears "here" after that, so each is placed once. The fault thread announces itself in
/// <c>_visitors</c> before it looks at the stretch, and the channel takes the stretch away before it looks at the visitors:
/// both are full fences, so nobody reads staging that is being used for the next one.</para>
/// <para>A page that somebody waits for is not gathered: the channel looks at "requested" after "free" is set, the fault
/// thread at "free" after "requested". At least one of them places it at once, and the rest is copied.
/// Model: tests/models/stretch.pml.</para>
/// </remarks>
internal sealed class FillingStretch : IDisposable
{
    internal const int Pages = 512;

    private const int Words = Pages / 64;
    private const int PageShift = 12;
    private const int CopyPages = 16;
    private const int LongestBackOff = 256;

    private readonly PostcopyPlacer _placer;
    private readonly ulong[] _here = new ulong[Words];
    private readonly ulong[] _free = new ulong[Words];
    private readonly ulong[] _zero = new ulong[Words];
    private HugeStaging? _staging;
    private RamBlock? _block;
    private long _first;
    private int _count;
    private int _zeros;
    private int _visitors;
    private bool _disturbed;
    private bool _wasClear;
    private int _skip;
    private int _backOff;

    internal FillingStretch(PostcopyPlacer placer) => _placer = placer;

    /// <summary>True while pages of an unfinished stretch are staged.</summary>
    internal bool IsFilling => _block is not null;

    /// <summary>True when the stretch can only be copied any more.</summary>
    internal bool IsDisturbed => Volatile.Read(ref _disturbed);

    /// <summary>
    /// Takes a page when it continues the stretch or begins one. A stretch that gets its last page is placed.
    /// </summary>
    /// <returns>False when the page must be placed by other means.</returns>
    internal bool TryAdd(RamBlock block, long page, nuint source, ref PlaceResult worst)
    {
        if (_block is null)
        {
            if ((page & (Pages - 1)) != 0 || !TryBegin(block, page))
            {
                return false;
            }
        }
        else if (block != _block || (ulong)(page - _first) >= Pages)
        {
            if ((page & (Pages - 1)) != 0 || !_placer.MayMove(block, page))
            {
                return false;
            }

            // The source went on elsewhere, and nothing says that it comes back.
            End(StretchFallback.Unfinished, ref worst);
            if (!TryBegin(block, page))
            {
                return false;
            }
        }

        int index = (int)(page - _first);
        if (IsDisturbed || block.Requested.Test(page))
        {
            Volatile.Write(ref _disturbed, true);
            return false;
        }

        if ((Volatile.Read(ref _here[index >> 6]) & Bit(index)) != 0)
        {
            return true;
        }

        Fill(index, source);

        // A full fence before "requested" is looked at; the partner is FaultReader.ServeMissing.
        InterleavingPoint.Yield("stretch.filled");
        _ = Interlocked.Or(ref _here[index >> 6], Bit(index));
        InterleavingPoint.Yield("stretch.here");
        _ = Interlocked.Or(ref _free[index >> 6], Bit(index));
        if (block.Requested.Test(page) && TryTake(index))
        {
            Volatile.Write(ref _disturbed, true);
            Keep(ref worst, PlaceTaken(block, index, 1));
        }

        if (++_count == Pages && !IsDisturbed)
        {
            Complete(ref worst);
        }

        return true;
    }

    /// <summary>Places what is there page by page, awaited pages first, and ends the stretch.</summary>
    internal void End(StretchFallback reason, ref PlaceResult worst)
    {
        if (_block is not { } block)
        {
            return;
        }

        _placer.CountFallback(IsDisturbed ? StretchFallback.Disturbed : reason);
        PlaceFree(block, ref worst);
        Clear();

        // What the fault thread had in hand and gave back.
        PlaceFree(block, ref worst);
    }

    /// <summary>For the fault thread, after it set "requested": places the page if it is here. Never waits.</summary>
    internal bool TryPlaceNow(RamBlock block, long page)
    {
        if (Volatile.Read(ref _block) != block)
        {
            return false;
        }

        // A full fence; the partner is Clear. A block that is seen after it stays until we leave, so its first page is looked
        // at after the block: before, it could be that of a stretch which ended since, and another one's content placed for it.
        _ = Interlocked.Increment(ref _visitors);
        InterleavingPoint.Yield("stretch.visiting");
        bool placed = false;
        if (Volatile.Read(ref _block) == block)
        {
            InterleavingPoint.Yield("stretch.visited");
            long index = page - Volatile.Read(ref _first);
            if ((ulong)index < Pages && (Volatile.Read(ref _here[index >> 6]) & Bit((int)index)) != 0)
            {
                // In hand of the channel's thread: its commit comes after our "requested" and ends the stall.
                placed = !TryTake((int)index) || PlaceVisited(block, page, (int)index);
            }
        }

        InterleavingPoint.Yield("stretch.leaving");
        _ = Interlocked.Decrement(ref _visitors);
        return placed;
    }

    public void Dispose() => _staging?.Dispose();

    private static ulong Bit(int index) => 1UL << (index & 63);

    private bool IsZero(int index) => (_zero[index >> 6] & Bit(index)) != 0;

    private nuint SourceOf(int index) => _staging!.Address + ((nuint)index << PageShift);

    private bool TryTake(int index)
    {
        InterleavingPoint.Yield("stretch.take");
        return (Interlocked.And(ref _free[index >> 6], ~Bit(index)) & Bit(index)) != 0;
    }

    private bool TryBegin(RamBlock block, long page)
    {
        if (!_placer.MayMove(block, page))
        {
            return false;
        }

        if (_skip > 0)
        {
            _skip--;
            return false;
        }

        _staging ??= new HugeStaging();
        if (!_staging.TryBack())
        {
            // Each try may compact memory: more rarely while it is in vain.
            _placer.CountFallback(StretchFallback.Unbacked);
            _backOff = Math.Clamp(_backOff * 2, 4, LongestBackOff);
            _skip = _backOff;
            return false;
        }

        _backOff = 0;
        _wasClear = _staging.IsClear;
        _placer.CountStretch();
        Array.Clear(_here, 0, Words);
        Array.Clear(_free, 0, Words);
        Array.Clear(_zero, 0, Words);
        _count = 0;
        _zeros = 0;
        Volatile.Write(ref _disturbed, false);
        Volatile.Write(ref _first, page);
        InterleavingPoint.Yield("stretch.first");

        // Release: the fault thread that sees the block sees empty bits and the right place.
        Volatile.Write(ref _block, block);
        return true;
    }

    private void Fill(int index, nuint source)
    {
        if (source != 0)
        {
            _staging!.Soil();
            _ = Libc.memcpy(SourceOf(index), source, 1 << PageShift);
            return;
        }

        _zeros++;
        _zero[index >> 6] |= Bit(index);
    }

    /// <summary>Another guest page may have been where a zero page is (hazard H41), and the kernel has cleared what is new.</summary>
    private void ClearZeros()
    {
        if (!_wasClear)
        {
            for (int i = 0; i < Pages; i++)
            {
                if (IsZero(i))
                {
                    _ = Libc.memset(SourceOf(i), 0, 1 << PageShift);
                }
            }
        }
    }

    private void Complete(ref PlaceResult worst)
    {
        RamBlock block = _block!;
        if (_zeros > _placer.MostZeros)
        {
            End(StretchFallback.Sparse, ref worst);
            return;
        }

        ClearZeros();
        if (!TryTakeAll())
        {
            End(StretchFallback.Disturbed, ref worst);
            return;
        }

        long moved = _placer.MoveStretch(block, _first, _staging!.Address, _zeros, out StretchFallback reason);
        if (moved == Pages)
        {
            _staging.Moved();
            Clear();
            return;
        }

        // What was not moved is in staging still, and free again.
        for (int i = (int)moved; i < Pages; i++)
        {
            _ = Interlocked.Or(ref _free[i >> 6], Bit(i));
        }

        End(reason, ref worst);
        _staging.Renew();
    }

    private bool TryTakeAll()
    {
        for (int w = 0; w < Words; w++)
        {
            if (w == 0)
            {
                InterleavingPoint.Yield("stretch.takeall");
            }

            ulong taken = Interlocked.And(ref _free[w], 0UL);
            if (taken != ulong.MaxValue)
            {
                // The fault thread has one: all the others go back.
                _ = Interlocked.Or(ref _free[w], taken);
                while (--w >= 0)
                {
                    _ = Interlocked.Or(ref _free[w], ulong.MaxValue);
                }

                return false;
            }
        }

        return true;
    }

    /// <summary>Out of the fault thread's sight; waits for the one page that it may be placing.</summary>
    private void Clear()
    {
        InterleavingPoint.Yield("stretch.hide");
        Volatile.Write(ref _block, null);
        Interlocked.MemoryBarrier();
        InterleavingPoint.Yield("stretch.hidden");
        BackOff wait = default;
        while (Volatile.Read(ref _visitors) != 0)
        {
            wait.Pause();
        }
    }

    private void PlaceFree(RamBlock block, ref PlaceResult worst)
    {
        for (int i = 0; i < Pages; i++)
        {
            if (block.Requested.Test(_first + i) && TryTake(i))
            {
                Keep(ref worst, PlaceTaken(block, i, 1));
            }
        }

        for (int i = 0; i < Pages;)
        {
            ulong rest = Volatile.Read(ref _free[i >> 6]) >> (i & 63);
            if (rest == 0)
            {
                i = (i | 63) + 1;
                continue;
            }

            i += BitOperations.TrailingZeroCount(rest);
            int run = 0;
            int most = IsZero(i) ? Pages - i : Math.Min(CopyPages, Pages - i);
            while (run < most && IsZero(i + run) == IsZero(i) && TryTake(i + run))
            {
                run++;
            }

            if (run > 0)
            {
                Keep(ref worst, PlaceTaken(block, i, run));
            }

            i += Math.Max(1, run);
        }
    }

    private PlaceResult PlaceTaken(RamBlock block, int index, int run)
    {
        long offset = (_first + index) << PageShift;
        PlaceResult result = IsZero(index)
            ? _placer.PlaceZero(block, offset, (long)run << PageShift)
            : _placer.Place(block, offset, SourceOf(index), (long)run << PageShift);
        for (int i = index; i < index + run; i++)
        {
            _ = Interlocked.And(ref _here[i >> 6], ~Bit(i));
        }

        return result;
    }

    private bool PlaceVisited(RamBlock block, long page, int index)
    {
        Volatile.Write(ref _disturbed, true);
        if (_placer.TryPlaceStaged(block, page, IsZero(index) ? 0 : SourceOf(index)))
        {
            _ = Interlocked.And(ref _here[index >> 6], ~Bit(index));
            return true;
        }

        _ = Interlocked.Or(ref _free[index >> 6], Bit(index));
        return false;
    }

    private static void Keep(ref PlaceResult worst, PlaceResult result)
    {
        if (worst.IsReceived && !result.IsReceived)
        {
            worst = result;
        }
    }
}
