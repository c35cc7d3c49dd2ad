namespace Postcopy.Uffd;

/// <summary>
/// The stretches of one channel: one that is filling, and those that are full, or were left by the source, in the middle of what
/// was received at once. To place one takes a millisecond, and what lies behind it would be out of the fault thread's
/// sight so long; so it waits, in sight itself, until all that was received has been taken apart. Where the source is asked for
/// whole stretches, one that it left waits for its rest.
/// </summary>
/// <remarks>The channel's thread, but for <see cref="TryPlaceNow"/>.</remarks>
internal sealed class StretchSlots : IDisposable
{
    // Huge pages are taken when a slot is first used.
    private const int Most = 2;
    private const int MostThatWait = 8;

    private readonly PostcopyPlacer _placer;
    private readonly FillingStretch[] _slots;
    private FillingStretch _filling;

    internal StretchSlots(PostcopyPlacer placer)
    {
        _placer = placer;
        _slots = new FillingStretch[placer.Stretches == StretchPlacement.WholeOnFault ? MostThatWait : Most];
        for (int i = 0; i < _slots.Length; i++)
        {
            _slots[i] = new FillingStretch(placer);
        }

        _filling = _slots[0];
    }

    /// <summary>True while pages of a stretch are staged.</summary>
    internal bool IsFilling
    {
        get
        {
            foreach (FillingStretch slot in _slots)
            {
                if (slot.IsFilling)
                {
                    return true;
                }
            }

            return false;
        }
    }

    /// <summary>True when another one would have to be copied, and a flush makes room for it.</summary>
    internal bool IsFull
    {
        get
        {
            bool full = false;
            foreach (FillingStretch slot in _slots)
            {
                if (!slot.IsFull && !slot.WaitsForRest)
                {
                    return false;
                }

                full |= slot.IsFull;
            }

            return full;
        }
    }

    /// <summary>Pages of stretches that the next flush places in any case.</summary>
    internal int Due
    {
        get
        {
            int due = 0;
            foreach (FillingStretch slot in _slots)
            {
                due += IsDue(slot) ? slot.Gathered : 0;
            }

            return due;
        }
    }

    /// <summary>True when one waits until all that was received is taken apart.</summary>
    internal bool HasWaiting
    {
        get
        {
            foreach (FillingStretch slot in _slots)
            {
                if (slot != _filling && slot.IsFilling && IsDue(slot))
                {
                    return true;
                }
            }

            return false;
        }
    }

    /// <summary>True for a page of the stretch that is filling, or goes on to fill with it.</summary>
    internal bool Holds(RamBlock block, long page)
    {
        if (_filling.Holds(block, page))
        {
            return true;
        }

        foreach (FillingStretch slot in _slots)
        {
            if (slot.Holds(block, page) && slot.WaitsForRest)
            {
                Leave(slot);
                return true;
            }
        }

        return false;
    }

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

    /// <summary>Places what can be placed: stretches that wait for nothing, one that is full, one that can only be copied.</summary>
    internal void Settle(ref PlaceResult worst)
    {
        foreach (FillingStretch slot in _slots)
        {
            if (slot != _filling && IsDue(slot))
            {
                slot.Finish(ref worst);
            }
        }

        if (IsDue(_filling))
        {
            _filling.Finish(ref worst);
        }
    }

    /// <summary>Before the source goes on elsewhere: also the one that was filling, unless it is to wait for its rest.</summary>
    internal void FinishLeft(ref PlaceResult worst)
    {
        Settle(ref worst);
        if (!_placer.AsksForRests)
        {
            _filling.Finish(ref worst);
        }
    }

    /// <summary>Places what is there, also of a stretch that is filling.</summary>
    internal void Finish(ref PlaceResult worst)
    {
        foreach (FillingStretch slot in _slots)
        {
            if (slot != _filling)
            {
                slot.Finish(ref worst);
            }
        }

        _filling.Finish(ref worst);
    }

    /// <summary>For the fault thread, after it set "requested": places the page if it is here. Never waits.</summary>
    internal bool TryPlaceNow(RamBlock block, long page, bool patient)
    {
        foreach (FillingStretch slot in _slots)
        {
            if (slot.TryPlaceNow(block, page, patient))
            {
                return true;
            }
        }

        return false;
    }

    public void Dispose()
    {
        foreach (FillingStretch slot in _slots)
        {
            slot.Dispose();
        }
    }

    private bool IsDue(FillingStretch slot) => slot == _filling ? slot.IsFull || slot.IsSpoiled : !slot.WaitsForRest;

    private bool TryBegin(RamBlock block, long page)
    {
        if (!MayBegin(block, page))
        {
            return false;
        }

        if (_filling.IsFilling)
        {
            // The source went on elsewhere, and nothing says that it comes back.
            FillingStretch? free = Array.Find(_slots, static s => !s.IsFilling);
            if (free is null)
            {
                return false;
            }

            Leave(free);
        }

        return _filling.TryBegin(block, page);
    }

    /// <summary>Another one fills from here on.</summary>
    private void Leave(FillingStretch next)
    {
        _filling.AskForRest();
        _filling = next;
    }
}
