using System.Numerics;

namespace Postcopy.Uffd;

/// <content>Its pages one by one: a stretch that did not become a huge page is placed by them.</content>
internal sealed partial class FillingStretch
{
    /// <summary>Pages from one on that are here already, and how many after those are not.</summary>
    private int NextRun(int index, int end, out int here)
    {
        int first = index;
        while (index < end && IsHere(index))
        {
            index++;
        }

        here = index - first;
        first = index;
        while (index < end && !IsHere(index))
        {
            index = (index & 63) == 0 && Volatile.Read(ref _here[index >> 6]) == 0 ? Math.Min(index + 64, end) : index + 1;
        }

        return index - first;
    }

    private bool IsHere(int index) => (Volatile.Read(ref _here[index >> 6]) & Bit(index)) != 0;

    private void PlaceFree(RamBlock block, ref PlaceResult worst)
    {
        PlaceRequested(block, 0, Pages, ref worst);
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

    private void PlaceRequested(RamBlock block, int from, int end, ref PlaceResult worst)
    {
        // Of one that was asked for as a whole nobody can tell who of it is waited for: the run is as good.
        for (int i = _placer.IsWanted(block, _first) ? end : from; i < end; i++)
        {
            if (block.Requested.Test(_first + i) && TryTake(i))
            {
                Keep(ref worst, PlaceTaken(block, i, 1));
            }
        }
    }

    private PlaceResult PlaceTaken(RamBlock block, int index, int run)
    {
        long offset = (_first + index) << PageShift;
        PlaceResult result = IsZero(index)
            ? _placer.PlaceStagedZeros(block, _first + index, run)
            : _placer.Place(block, offset, SourceOf(index), (long)run << PageShift);
        for (int i = index; i < index + run; i++)
        {
            _ = Interlocked.And(ref _here[i >> 6], ~Bit(i));
        }

        return result;
    }

    private void PlaceVisited(RamBlock block, long page, int index)
    {
        Volatile.Write(ref _disturbed, true);
        if (_placer.TryPlaceStaged(block, page, IsZero(index) ? 0 : SourceOf(index)))
        {
            _ = Interlocked.And(ref _here[index >> 6], ~Bit(index));
        }
        else
        {
            // What could not be placed at once is given back, to the channel or the next try.
            _ = Interlocked.Or(ref _free[index >> 6], Bit(index));
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
