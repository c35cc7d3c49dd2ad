using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd;

/// <content>Pages of content in a row by one COPY.</content>
public sealed partial class StagingWindow
{
    /// <summary>
    /// Entry <paramref name="first"/> is taken; takes the pages that follow it in the guest, and places all.
    /// </summary>
    private int PlaceRun(int first, int count, ref PlaceResult worst)
    {
        RamBlock block = _blocks[first]!;
        int most = Math.Min(count, first + (int)Math.Max(1, RunBytes / block.PageSize.Bytes));
        int end = first + 1;
        while (end < most && _blocks[end] == block && _pages[end] == _pages[first] + (end - first) && TryTake(end))
        {
            end++;
        }

        Keep(ref worst, PlaceTaken(first, end - first));
        return end - first;
    }

    private PlaceResult PlaceTaken(int first, int run)
    {
        RamBlock block = _blocks[first]!;
        long offset = _pages[first] << block.PageSize.Shift;
        PlaceResult result = _placer.Place(block, offset, AreTogether(first, run, block.PageSize.Bytes) ? _sources[first] : Gather(first, run, block.PageSize.Bytes), run * block.PageSize.Bytes);
        for (int i = first; i < first + run; i++)
        {
            Volatile.Write(ref _states[i], Done);
        }

        return result;
    }

    private bool AreTogether(int first, int run, long pageBytes)
    {
        for (int i = 1; i < run; i++)
        {
            if (_sources[first + i] != _sources[first] + (nuint)(i * pageBytes))
            {
                return false;
            }
        }

        return true;
    }

    /// <summary>Header bytes lie between the pages of a stream: for one COPY they are moved together.</summary>
    private nuint Gather(int first, int run, long pageBytes)
    {
        for (int i = 0; i < run; i++)
        {
            // Both are native memory that is not guest memory.
            _ = Libc.memcpy(_run + (nuint)(i * pageBytes), _sources[first + i], (nuint)pageBytes);
        }

        return _run;
    }
}
