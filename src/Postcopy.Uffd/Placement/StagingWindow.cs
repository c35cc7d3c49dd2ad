namespace Postcopy.Uffd;

/// <summary>
/// Pages that a channel has received and not placed yet, in sight of the fault thread: a fault on one of them places
/// it at once and asks the source for nothing. Awaited pages of a batch are placed before the others. With
/// <see cref="StretchPlacement.WholeOnFault"/> pages of a stretch that was asked for as a whole wait for it (<see cref="PlacerOptions.StretchPatience"/>).
/// </summary>
/// <remarks>
/// <para>One thread, the channel's, adds and flushes; the fault thread only looks and takes. An entry goes from staged
/// to taken by compare-exchange, so exactly one of the two places it, and whoever took it may read its fields: they do
/// not change while it is taken. The channel may reuse its receive buffer once <see cref="Flush"/> has returned.</para>
/// <para>Nothing may stay staged while the channel waits for more (placement.md): flush before every blocking read,
/// and before a received bitmap is exported (hazard H44). Only for blocks whose page is the target page; huge pages
/// are put together by a <see cref="HostPageAssembler"/>. Model: tests/models/staged.pml.</para>
/// </remarks>
public sealed partial class StagingWindow : IDisposable
{
    /// <summary>Pages that a window holds when nothing else is asked for.</summary>
    public const int DefaultCapacity = 256;

    // Of content that is put together for one COPY: beyond 64 KiB a longer one gains nothing and keeps its waiters longer.
    private const int RunBytes = 64 << 10;

    private static readonly PlaceResult s_placed = new(PlaceOutcome.Placed, 0, 0, default);

    private const int Free = 0;
    private const int Staged = 1;
    private const int Taken = 2;
    private const int Done = 3;

    private readonly PostcopyPlacer _placer;
    private readonly long[] _pages;
    private readonly RamBlock?[] _blocks;
    private readonly nuint[] _sources;
    private readonly int[] _states;
    private readonly StretchSlots? _stretches;
    private nuint _run;
    private int _count;
    private PlaceResult _worst = s_placed;

    internal StagingWindow(PostcopyPlacer placer, bool stretches, int capacity)
    {
        _placer = placer;
        Capacity = capacity;
        _pages = new long[capacity];
        _blocks = new RamBlock?[capacity];
        _sources = new nuint[capacity];
        _states = new int[capacity];
        _stretches = stretches ? new StretchSlots(placer) : null;
        _run = NativeZeroMemory.Map(RunBytes);
    }

    /// <summary>Frees the buffer of a window that was not disposed.</summary>
    ~StagingWindow() => Release();

    /// <summary>Pages of content that it holds; runs of zero pages come on top, a million at most.</summary>
    public int Capacity { get; }

    /// <summary>True when no page can be added before a flush.</summary>
    public bool IsFull => _count == Capacity || _zeroCount == MostZeroRuns || _stretches is { IsFull: true };

    /// <summary>Pages that the next flush places, so without those of a stretch that is filling.</summary>
    public int Count => (int)Math.Min(int.MaxValue, _count + _zeroPages + (_stretches?.Due ?? 0));

    /// <summary>True while a stretch of 2 MiB is filling: its pages are copied already, and not placed.</summary>
    public bool IsFilling => _stretches is { IsFilling: true };

    /// <summary>Adds a page that is to be placed.</summary>
    /// <param name="block">An attached block.</param>
    /// <param name="offset">Bytes from its start, page-aligned.</param>
    /// <param name="source">Its bytes, valid until the next flush; 0 for a page of zeros.</param>
    /// <exception cref="InvalidOperationException">The window is full.</exception>
    public void Add(RamBlock block, long offset, nuint source)
    {
        ArgumentNullException.ThrowIfNull(block);
        if (_count == Capacity || _zeroCount == MostZeroRuns)
        {
            throw new InvalidOperationException($"The window holds {Capacity} pages; flush it first.");
        }

        AddRun(block, block.PageSize.IndexOf(offset), source, 1);
    }

    /// <summary>
    /// Adds neighbouring pages. When there is no room for all of them, those that are inside are placed first.
    /// </summary>
    /// <param name="block">An attached block.</param>
    /// <param name="offset">Bytes from its start of the first page.</param>
    /// <param name="source">Their bytes, one page behind the other, valid until the next flush; 0 for pages of zeros.</param>
    /// <param name="pages">How many.</param>
    /// <exception cref="ArgumentOutOfRangeException">There is no page, or not all lie in the block.</exception>
    public void Add(RamBlock block, long offset, nuint source, int pages)
    {
        ArgumentNullException.ThrowIfNull(block);
        long first = block.PageSize.IndexOf(offset);
        if (offset < 0 || pages <= 0 || first + pages > block.PageCount)
        {
            throw new ArgumentOutOfRangeException(nameof(pages), pages, $"{pages} pages from offset {offset} do not lie in RAM block '{block.Name}' of {block.UsedLength} bytes.");
        }

        AddRun(block, first, source, pages);
    }

    /// <summary>
    /// Where neighbouring pages can be received to, so that <see cref="Add(RamBlock, long, nuint, int)"/> need not copy them:
    /// into a stretch of 2 MiB that is filling, or begins there.
    /// </summary>
    /// <param name="block">An attached block.</param>
    /// <param name="offset">Bytes from its start of the first page.</param>
    /// <param name="pages">How many are expected; how many there is room for.</param>
    /// <returns>
    /// The address of the first, the others behind it; 0 when they are copied in any case. Safety: native memory, to be written
    /// to before the next call of this window only. Nothing need be, nor what was expected.
    /// </returns>
    public nuint RoomFor(RamBlock block, long offset, ref int pages)
    {
        ArgumentNullException.ThrowIfNull(block);
        long page = block.PageSize.IndexOf(offset);
        BeginWithZeros(block, page);
        if (_stretches is { HasWaiting: true })
        {
            FlushWindow();
        }

        if (_stretches is null || (!_stretches.Holds(block, page) && !_stretches.MayBegin(block, page)))
        {
            return 0;
        }

        if (!_stretches.Holds(block, page))
        {
            // The caller goes on to wait for the next one: the last one is not left staged. And it may be put where a page
            // lies that was received for a stretch which did not want it any more.
            FlushWindow();
            _stretches.FinishLeft(ref _worst);
        }

        return _stretches.RoomFor(block, page, ref pages);
    }

    /// <summary>
    /// Places all pages: awaited ones first and alone, then neighbours together, content before zeros, each run by one operation;
    /// then those of a stretch that is filling. To be called whenever nothing more is at hand.
    /// </summary>
    /// <returns>Placed, or the first placement that did not succeed since the last flush; the pages after it were still tried.</returns>
    public PlaceResult Flush()
    {
        FlushAll();
        return TakeWorst();
    }

    /// <summary>
    /// As <see cref="Flush"/>, but a stretch of 2 MiB that is filling and was touched by nobody is left to fill: for a
    /// caller that knows more of the stream to be on its way. The receive buffer may be reused in any case.
    /// </summary>
    /// <returns>As for <see cref="Flush"/>.</returns>
    public PlaceResult FlushPages()
    {
        KeepLastZeros();
        return PlacePages();
    }

    /// <summary>Takes the window out of the fault thread's sight; it must be flushed.</summary>
    public void Dispose()
    {
        _placer.RemoveWindow(this);
        _stretches?.Dispose();
        Release();
        GC.SuppressFinalize(this);
    }

    /// <summary>For the fault thread, after it set "requested": places the page if it is here. Never waits.</summary>
    /// <returns>True when it is here: placed now, in hand of the channel's thread, or to be tried again.</returns>
    internal bool TryPlaceNow(RamBlock block, long page, bool patient)
    {
        if (_stretches is not null && _stretches.TryPlaceNow(block, page, patient))
        {
            return true;
        }

        int count = Volatile.Read(ref _count);
        for (int from = 0; from < count;)
        {
            int found = _pages.AsSpan(from, count - from).IndexOf(page);
            if (found < 0)
            {
                break;
            }

            int i = from + found;
            from = i + 1;
            InterleavingPoint.Yield("window.found");
            if (TryTake(i))
            {
                InterleavingPoint.Yield("window.taken");

                // The window may have been refilled since the look: what is taken is looked at again.
                bool mine = _pages[i] == page && _blocks[i] == block;
                bool placed = mine && _placer.TryPlaceStaged(block, page, _sources[i]);
                Volatile.Write(ref _states[i], placed ? Done : Staged);
                if (mine)
                {
                    // What could not be placed at once is given back, to the channel or the next try.
                    return true;
                }
            }
            else if (Volatile.Read(ref _states[i]) == Taken && _pages[i] == page && Volatile.Read(ref _blocks[i]) == block)
            {
                // The channel's thread has it in hand: its commit comes after our "requested" and ends the stall. The
                // state is read before the fields, which change only after a flush: the entry was this page's.
                return true;
            }
        }

        return TryPlaceZeroNow(block, page);
    }

    private PlaceResult PlacePages()
    {
        PlaceResult worst = _worst;
        int count = _count;
        PlaceAwaited(0, count, ref worst);
        for (int i = 0; i < count;)
        {
            i += TryTake(i) ? PlaceRun(i, count, ref worst) : 1;
        }

        // The fault thread may hold one: a single COPY, or it gives the page back.
        for (int i = 0; i < count; i++)
        {
            BackOff wait = default;
            while (Volatile.Read(ref _states[i]) != Done)
            {
                if (TryTake(i))
                {
                    Keep(ref worst, PlaceTaken(i, 1));
                }
                else
                {
                    wait.Pause();
                }
            }
        }

        for (int i = 0; i < count; i++)
        {
            _states[i] = Free;
        }

        InterleavingPoint.Yield("window.freed");
        Volatile.Write(ref _count, 0);
        PlaceZeroRuns(ref worst);

        // After the pages: some may have been received into a stretch that did not want them any more.
        _worst = worst;
        _stretches?.Settle(ref _worst);

        // The finalizer unmaps the buffer that the kernel was just copying from.
        GC.KeepAlive(this);
        return TakeWorst();
    }

    private PlaceResult TakeWorst()
    {
        PlaceResult worst = _worst;
        _worst = s_placed;
        return worst;
    }

    private void AddRun(RamBlock block, long page, nuint source, int pages)
    {
        bool flushed = false;
        while (pages > 0)
        {
            if (IsFull)
            {
                FlushWindow();
                flushed = true;
            }

            int taken = AddToStretch(block, page, source, pages);
            if (taken == 0)
            {
                // As far as the next stretch, which may begin there.
                taken = _stretches is null ? pages : (int)Math.Min(pages, FillingStretch.Pages - (page & (FillingStretch.Pages - 1)));
                taken = AddUnstaged(block, page, source, taken);
            }

            page += taken;
            pages -= taken;
            source += source == 0 ? 0 : (nuint)(taken * block.PageSize.Bytes);
        }

        if (flushed)
        {
            // Perhaps received into a stretch that did not want them, and that was ended since: the next may be put there.
            FlushWindow();
        }
    }

    private int AddUnstaged(RamBlock block, long page, nuint source, int pages)
    {
        if (source == 0)
        {
            AddZeros(block, page, pages);
            return pages;
        }

        int count = _count;
        pages = Math.Min(pages, Capacity - count);
        for (int i = count; i < count + pages; i++)
        {
            _pages[i] = page++;
            _blocks[i] = block;
            _sources[i] = source;
            source += (nuint)block.PageSize.Bytes;
            InterleavingPoint.Yield("window.fields");

            // Release: the fields are written before the state; the partner is the compare-exchange of TryTake.
            Volatile.Write(ref _states[i], Staged);
        }

        InterleavingPoint.Yield("window.staged");
        Volatile.Write(ref _count, count + pages);

        // Full fence: in sight before the look at "requested". The partner is FaultReader.ServeMissing, which sets that bit and
        // then looks here: one of the two finds the other, and the source is asked for nothing that is here.
        Interlocked.MemoryBarrier();
        PlaceAwaited(count, count + pages, ref _worst);
        return pages;
    }

    private void FlushWindow() => _worst = PlacePages();

    private void FlushAll()
    {
        FlushWindow();
        _stretches?.Finish(ref _worst);
    }

    /// <summary>Who waits need not wait for the rest of what was received, nor for the run that it belongs to.</summary>
    private void PlaceAwaited(int from, int to, ref PlaceResult worst)
    {
        for (int i = from; i < to; i++)
        {
            if (_blocks[i]!.Requested.Test(_pages[i]) && !_placer.IsWanted(_blocks[i]!, PostcopyPlacer.FirstOfStretch(_pages[i])) && TryTake(i))
            {
                Keep(ref worst, PlaceTaken(i, 1));
            }
        }
    }

    private bool TryTake(int i)
    {
        InterleavingPoint.Yield("window.take");
        return Interlocked.CompareExchange(ref _states[i], Taken, Staged) == Staged;
    }

    private void Release()
    {
        if (_run != 0)
        {
            NativeZeroMemory.Unmap(_run, RunBytes);
            _run = 0;
        }
    }

    private static void Keep(ref PlaceResult worst, PlaceResult result)
    {
        if (worst.IsReceived && !result.IsReceived)
        {
            worst = result;
        }
    }
}
