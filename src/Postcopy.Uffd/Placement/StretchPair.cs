namespace Postcopy.Uffd;

/// <summary>
/// The stretches of one channel: one that is filling, and one that is full, or was left by the source, in the middle of what
/// was received at once. To place that one takes a millisecond, and what lies behind it would be out of the fault thread's
/// sight so long; so it waits, in sight itself, until all that was received has been taken apart.
/// </summary>
/// <remarks>The channel's thread, but for <see cref="TryPlaceNow"/>.</remarks>
internal sealed class StretchPair : IDisposable
{
    private readonly PostcopyPlacer _placer;
    private readonly FillingStretch _one;
    private readonly FillingStretch _other;
    private FillingStretch _filling;

    internal StretchPair(PostcopyPlacer placer)
    {
        _placer = placer;
        _one = new FillingStretch(placer);
        _other = new FillingStretch(placer);
        _filling = _one;
    }

    /// <summary>True while pages of a stretch are staged.</summary>
    internal bool IsFilling => _one.IsFilling || _other.IsFilling;

    /// <summary>True when both are full: a third one would have to be copied.</summary>
    internal bool IsFull => _one.IsFull && _other.IsFull;

    /// <summary>Pages of stretches that the next flush places in any case.</summary>
    internal int Due => Waiting.Gathered + (_filling.IsFull || _filling.IsSpoiled ? _filling.Gathered : 0);

    /// <summary>True when one waits until all that was received is taken apart.</summary>
    internal bool HasWaiting => Waiting.IsFilling;

    private FillingStretch Waiting => _filling == _one ? _other : _one;

    /// <summary>True for a page of the stretch that is filling.</summary>
    internal bool Holds(RamBlock block, long page) => _filling.Holds(block, page);

    /// <summary>True where a stretch may begin.</summary>
    internal bool MayBegin(RamBlock block, long page) => (page & (FillingStretch.Pages - 1)) == 0 && _placer.MayMove(block, page);

    /// <summary>True when zero pages continue the stretch that is filling.</summary>
    internal bool TakesZeros(RamBlock block, long page, int pages) => Holds(block, page) && _filling.TakesZeros(page, pages);

    /// <summary>Takes the first of neighbouring pages when they continue the stretch or begin one.</summary>
    /// <param name="block">Their block.</param>
    /// <param name="page">The first one.</param>
    /// <param name="source">Their content, one behind the other; 0 for zeros.</param>
    /// <param name="pages">How many.</param>
    /// <param name="worst">The first placement that did not succeed.</param>
    /// <returns>How many were taken; with 0, the first must be placed by other means.</returns>
    internal int Add(RamBlock block, long page, nuint source, int pages, ref PlaceResult worst) =>
        Holds(block, page) || TryBegin(block, page) ? _filling.Add(block, page, source, pages, ref worst) : 0;

    /// <summary>As <see cref="FillingStretch.RoomFor"/>, also in a stretch that begins there.</summary>
    internal nuint RoomFor(RamBlock block, long page, ref int pages) =>
        Holds(block, page) || TryBegin(block, page) ? _filling.RoomFor(page, ref pages) : 0;

    /// <summary>Places what can be placed: a stretch that waits, one that is full, one that can only be copied.</summary>
    internal void Settle(ref PlaceResult worst)
    {
        Waiting.Finish(ref worst);
        if (_filling.IsFull || _filling.IsSpoiled)
        {
            _filling.Finish(ref worst);
        }
    }

    /// <summary>Places what is there, also of a stretch that is filling.</summary>
    internal void Finish(ref PlaceResult worst)
    {
        Waiting.Finish(ref worst);
        _filling.Finish(ref worst);
    }

    /// <summary>For the fault thread, after it set "requested": places the page if it is here. Never waits.</summary>
    internal bool TryPlaceNow(RamBlock block, long page) => _one.TryPlaceNow(block, page) || _other.TryPlaceNow(block, page);

    public void Dispose()
    {
        _one.Dispose();
        _other.Dispose();
    }

    private bool TryBegin(RamBlock block, long page)
    {
        if (!MayBegin(block, page))
        {
            return false;
        }

        if (_filling.IsFilling)
        {
            // The source went on elsewhere, and nothing says that it comes back.
            if (Waiting.IsFilling)
            {
                return false;
            }

            _filling = Waiting;
        }

        return _filling.TryBegin(block, page);
    }
}
