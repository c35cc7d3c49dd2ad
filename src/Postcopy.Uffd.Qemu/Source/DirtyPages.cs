using System.Numerics;

namespace Postcopy.Uffd.Qemu;

/// <summary>
/// One bit per host page that has to be sent. Taking a page clears its bit atomically, so the thread that serves requests
/// and the thread that sends the rest never send the same page.
/// </summary>
internal sealed class DirtyPages
{
    private const int BitsPerWord = 64;
    private readonly ulong[] _words;
    private readonly int _shift;
    private long _count;

    internal DirtyPages(StreamRamBlock block)
    {
        _shift = BitOperations.TrailingZeroCount(block.PageSize);
        Pages = block.Length >> _shift;
        _words = new ulong[(Pages + BitsPerWord - 1) / BitsPerWord];
        MarkAll();
    }

    internal long Pages { get; }

    internal long Count => Volatile.Read(ref _count);

    internal long Bytes => Count << _shift;

    internal int PageShift => _shift;

    internal void MarkAll()
    {
        for (long page = 0; page < Pages; page++)
        {
            Mark(page);
        }
    }

    internal void Clear()
    {
        Array.Clear(_words);
        Volatile.Write(ref _count, 0);
    }

    internal void Mark(long page)
    {
        ulong bit = 1UL << (int)(page % BitsPerWord);
        if ((Interlocked.Or(ref _words[page / BitsPerWord], bit) & bit) == 0)
        {
            Interlocked.Increment(ref _count);
        }
    }

    internal bool TryTake(long page)
    {
        ulong bit = 1UL << (int)(page % BitsPerWord);
        if ((Interlocked.And(ref _words[page / BitsPerWord], ~bit) & bit) == 0)
        {
            return false;
        }

        Interlocked.Decrement(ref _count);
        return true;
    }

    /// <summary>The first marked page at or after a page, or -1.</summary>
    internal long NextMarked(long from) => Next(from, marked: true);

    /// <summary>The first page that is not marked at or after a page, or <see cref="Pages"/>.</summary>
    internal long NextClear(long from)
    {
        long next = Next(from, marked: false);
        return next < 0 ? Pages : next;
    }

    private long Next(long from, bool marked)
    {
        for (long index = from / BitsPerWord; index < _words.Length && from < Pages; index++)
        {
            ulong word = Volatile.Read(ref _words[index]);
            ulong left = (marked ? word : ~word) & (ulong.MaxValue << (int)(from % BitsPerWord));
            if (left != 0)
            {
                long page = (index * BitsPerWord) + BitOperations.TrailingZeroCount(left);
                return page < Pages ? page : -1;
            }

            from = (index + 1) * BitsPerWord;
        }

        return -1;
    }
}
