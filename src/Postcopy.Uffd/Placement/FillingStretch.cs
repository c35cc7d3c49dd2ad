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
/// <para>A page that somebody waits for is not gathered, unless he waits for the whole stretch (<see cref="PostcopyPlacer.IsWhole"/>): the channel looks at "requested" after "free" is set, the fault
/// thread at "free" after "requested". At least one of them places it at once, and the rest is copied.
/// Model: tests/models/stretch.pml.</para>
/// </remarks>
internal sealed partial class FillingStretch : IDisposable
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
    private bool _sparse;
    private bool _wasClear;
    private int _skip;
    private int _backOff;

    internal FillingStretch(PostcopyPlacer placer) => _placer = placer;

    /// <summary>True while pages of an unfinished stretch are staged.</summary>
    internal bool IsFilling => _block is not null;

    /// <summary>True when the stretch can only be copied any more, and takes nothing.</summary>
    internal bool IsSpoiled => _sparse || Volatile.Read(ref _disturbed);

    /// <summary>True when all its pages are here.</summary>
    internal bool IsFull => _block is not null && _count == Pages;

    /// <summary>True when the source was asked for all of it, and goes on with it later.</summary>
    internal bool WaitsForRest => _block is { } block && !IsFull && !IsSpoiled && _placer.IsWhole(block, _first);

    /// <summary>Pages that came, whoever placed them since.</summary>
    internal int Gathered => _block is null ? 0 : _count;

    /// <summary>True for a page of the stretch that is filling.</summary>
    internal bool Holds(RamBlock block, long page) => _block == block && (ulong)(page - _first) < Pages;

    /// <summary>True when zero pages of the stretch that is filling still leave it dense enough for a huge page.</summary>
    internal bool TakesZeros(long page, int pages)
    {
        _sparse |= !IsFull && _zeros + Math.Min(pages, Pages - (page - _first)) > _placer.MostZeros;
        return !IsSpoiled;
    }

    /// <summary>Takes those of neighbouring pages that belong to the stretch; the first does. Places none but awaited ones.</summary>
    /// <param name="block">Their block.</param>
    /// <param name="page">The first one.</param>
    /// <param name="source">Their content, one behind the other; 0 for zeros.</param>
    /// <param name="pages">How many.</param>
    /// <param name="worst">The first placement that did not succeed.</param>
    /// <returns>How many were taken; with 0, the first must be placed by other means.</returns>
    internal int Add(RamBlock block, long page, nuint source, int pages, ref PlaceResult worst)
    {
        int index = (int)(page - _first);
        pages = Math.Min(pages, Pages - index);
        if (IsSpoiled)
        {
            return 0;
        }

        if (block.Requested.AnySet(page, pages) && !_placer.IsWhole(block, _first))
        {
            Volatile.Write(ref _disturbed, true);
            return 0;
        }

        // A page that came before stays as it was: the guest may be reading it.
        for (int end = index + pages; index < end;)
        {
            int run = NextRun(index, end, out int here);
            index += here;
            if (run > 0)
            {
                Fill(index, run, source == 0 ? 0 : source + ((nuint)(index - (int)(page - _first)) << PageShift));
                Show(block, index, run, ref worst);
                _count += run;
                index += run;
            }
        }

        return pages;
    }

    /// <summary>Where the content of neighbouring pages of the stretch may be put before <see cref="Add"/> is told of them.</summary>
    /// <param name="page">The first one.</param>
    /// <param name="pages">How many are expected; how many there is room for.</param>
    /// <returns>The address; 0 when they would not be taken.</returns>
    internal nuint RoomFor(long page, ref int pages)
    {
        if (IsSpoiled)
        {
            return 0;
        }

        int index = (int)(page - _first);
        pages = NextRun(index, Math.Min(index + pages, Pages), out int here);
        if (here > 0)
        {
            return 0;
        }

        // Something else may come than was expected, and stay behind where zeros are expected to be.
        _staging!.Soil();
        _wasClear = false;
        return SourceOf(index);
    }

    /// <summary>The source left it: asks for what is missing of it, where faults ask for whole stretches.</summary>
    internal void AskForRest()
    {
        if (_block is { } block && !IsFull && !IsSpoiled)
        {
            _placer.AskForRest(block, _first);
        }
    }

    /// <summary>Places what is there, as a huge page when it is full and was touched by nobody, and ends the stretch.</summary>
    internal void Finish(ref PlaceResult worst)
    {
        if (IsFull && !IsSpoiled)
        {
            Complete(ref worst);
        }
        else
        {
            End(_sparse ? StretchFallback.Sparse : StretchFallback.Unfinished, ref worst);
        }
    }

    /// <summary>For the fault thread, after it set "requested": places the page if it is here. Never waits.</summary>
    /// <returns>True when it is here: placed now, in hand of the channel's thread, or to be tried again.</returns>
    internal bool TryPlaceNow(RamBlock block, long page, bool patient)
    {
        // The first page is at least as new as the block: should another stretch have begun, the one before has been placed.
        if (Volatile.Read(ref _block) != block || (ulong)(page - Volatile.Read(ref _first)) >= Pages)
        {
            return false;
        }

        // A full fence; the partner is Clear. A block that is seen after it stays until we leave, so its first page is looked
        // at after the block: before, it could be that of a stretch which ended since, and another one's content placed for it.
        _ = Interlocked.Increment(ref _visitors);
        InterleavingPoint.Yield("stretch.visiting");
        bool here = false;
        if (Volatile.Read(ref _block) == block)
        {
            InterleavingPoint.Yield("stretch.visited");
            long index = page - Volatile.Read(ref _first);
            here = (ulong)index < Pages && IsHere((int)index);

            // Else in hand of the channel's thread: its commit comes after our "requested" and ends the stall.
            // Who waits for a stretch as a whole gets it from the channel, when it is full or the socket idle, unless that takes long.
            if (here && !(patient && !IsSpoiled && _placer.IsWhole(block, page - index)) && TryTake((int)index))
            {
                PlaceVisited(block, page, (int)index);
            }
        }

        InterleavingPoint.Yield("stretch.leaving");
        _ = Interlocked.Decrement(ref _visitors);
        return here;
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

    /// <summary>Begins with nothing, where <see cref="PostcopyPlacer.MayMove"/> lets it.</summary>
    internal bool TryBegin(RamBlock block, long page)
    {
        if (_skip > 0)
        {
            _skip--;
            return false;
        }

        _staging ??= new HugeStaging();
        _staging.FollowPolicyOf(block);
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
        _sparse = false;
        Volatile.Write(ref _disturbed, false);
        Volatile.Write(ref _first, page);
        InterleavingPoint.Yield("stretch.first");

        // Release: the fault thread that sees the block sees empty bits and the right place.
        Volatile.Write(ref _block, block);
        return true;
    }

    private void Fill(int index, int pages, nuint source)
    {
        if (source == 0)
        {
            _zeros += pages;
            for (int i = index; i < index + pages; i++)
            {
                _zero[i >> 6] |= Bit(i);
            }
        }
        else if (source != SourceOf(index))
        {
            _staging!.Soil();
            _ = Libc.memcpy(SourceOf(index), source, (nuint)pages << PageShift);
        }
    }

    /// <summary>The fault thread may see the pages from here on; those that somebody waits for by now are placed.</summary>
    private void Show(RamBlock block, int index, int pages, ref PlaceResult worst)
    {
        for (int i = index, end = index + pages; i < end;)
        {
            int next = Math.Min(end, (i | 63) + 1);
            ulong mask = ulong.MaxValue >> (64 - (next - i)) << (i & 63);

            // A full fence before "requested" is looked at; the partner is FaultReader.ServeMissing.
            InterleavingPoint.Yield("stretch.filled");
            _ = Interlocked.Or(ref _here[i >> 6], mask);
            InterleavingPoint.Yield("stretch.here");
            _ = Interlocked.Or(ref _free[i >> 6], mask);
            i = next;
        }

        if (block.Requested.AnySet(_first + index, pages) && !_placer.IsWhole(block, _first))
        {
            Volatile.Write(ref _disturbed, true);
            PlaceRequested(block, index, index + pages, ref worst);
        }
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

    /// <summary>Places what is there page by page, awaited pages first.</summary>
    private void End(StretchFallback reason, ref PlaceResult worst)
    {
        if (_block is not { } block)
        {
            return;
        }

        _placer.CountFallback(Volatile.Read(ref _disturbed) ? StretchFallback.Disturbed : reason);
        PlaceFree(block, ref worst);
        Clear();

        // What the fault thread had in hand and gave back.
        PlaceFree(block, ref worst);
    }

    private void Complete(ref PlaceResult worst)
    {
        RamBlock block = _block!;
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
        InterleavingPoint.Yield("stretch.takeall");
        for (int w = 0; w < Words; w++)
        {
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
}
