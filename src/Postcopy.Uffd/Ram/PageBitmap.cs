using System.Numerics;
using System.Runtime.CompilerServices;
using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd;

/// <summary>
/// One bit per page, changed atomically by any number of threads. Backed by lazily allocated native memory, so the
/// bitmap of a 16 TiB block costs what is used of it.
/// </summary>
/// <remarks>
/// Every change is an interlocked operation and so a full fence: what was written before a bit was set is seen by
/// whoever sees the bit, and whoever set it sees what others published before (the "requested"/"received" protocol of
/// <c>PostcopyPlacer</c> rests on it). Reads are acquire reads. Indexes outside are a programming error and
/// throw <see cref="ArgumentOutOfRangeException"/>. Thread-safe; disposing is not.
/// </remarks>
public sealed unsafe partial class PageBitmap : IDisposable
{
    private const int BitsPerWord = 64;

    private readonly nuint _bytes;
    private ulong* _words;
    private bool _borrowed;

    /// <summary>Makes a bitmap with all bits clear.</summary>
    /// <param name="length">Bits; more than 0.</param>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="length"/> is 0 or less.</exception>
    /// <exception cref="OutOfMemoryException">No address space for it.</exception>
    public PageBitmap(long length)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(length);
        Length = length;
        _bytes = (nuint)((length + BitsPerWord - 1) / BitsPerWord * sizeof(ulong));
        _words = (ulong*)NativeZeroMemory.Map(_bytes);
    }

    /// <summary>A bitmap on words that somebody else maps, with what is in them; they must outlive it.</summary>
    internal PageBitmap(long length, nuint words)
    {
        Length = length;
        _bytes = (nuint)BytesFor(length);
        _words = (ulong*)words;
        _borrowed = true;
    }

    /// <summary>Where the words are.</summary>
    internal nuint Words => (nuint)_words;

    /// <summary>Bytes of the words of a bitmap.</summary>
    internal static long BytesFor(long length) => (length + BitsPerWord - 1) / BitsPerWord * sizeof(ulong);

    /// <summary>Copies the bits to words that somebody else maps and works on those; no other thread may use the bitmap meanwhile.</summary>
    internal void MoveTo(nuint words)
    {
        Buffer.MemoryCopy(_words, (void*)words, _bytes, _bytes);
        Release();
        _words = (ulong*)words;
        _borrowed = true;
    }

    /// <summary>Back to words of its own; no other thread may use the bitmap meanwhile.</summary>
    internal void MoveBack()
    {
        if (_borrowed)
        {
            ulong* own = (ulong*)NativeZeroMemory.Map(_bytes);
            Buffer.MemoryCopy(_words, own, _bytes, _bytes);
            _words = own;
            _borrowed = false;
        }
    }

    /// <summary>Unmaps it when it was not disposed.</summary>
    ~PageBitmap() => Release();

    /// <summary>Bits.</summary>
    public long Length { get; }

    /// <summary>True when the bit is set. An acquire read.</summary>
    /// <param name="index">Which bit.</param>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public bool Test(long index)
    {
        InterleavingPoint.Yield("bitmap.test");
        return (Volatile.Read(ref Word(index)) & Mask(index)) != 0;
    }

    /// <summary>Sets a bit. A full fence.</summary>
    /// <param name="index">Which bit.</param>
    /// <returns>True when it was set before.</returns>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public bool TestAndSet(long index)
    {
        InterleavingPoint.Yield("bitmap.set");
        return (Interlocked.Or(ref Word(index), Mask(index)) & Mask(index)) != 0;
    }

    /// <summary>Clears a bit. A full fence.</summary>
    /// <param name="index">Which bit.</param>
    /// <returns>True when it was set before.</returns>
    public bool TestAndClear(long index)
    {
        InterleavingPoint.Yield("bitmap.clear");
        return (Interlocked.And(ref Word(index), ~Mask(index)) & Mask(index)) != 0;
    }

    /// <summary>Sets a range of bits, a word at a time.</summary>
    /// <param name="start">First bit.</param>
    /// <param name="count">How many.</param>
    /// <returns>How many were clear before.</returns>
    public long SetRange(long start, long count)
    {
        CheckRange(start, count);
        long changed = 0;
        for (long i = start, end = start + count; i < end;)
        {
            ulong mask = RangeMask(i, end, out long next);
            InterleavingPoint.Yield("bitmap.set");
            changed += BitOperations.PopCount(mask & ~Interlocked.Or(ref _words[i / BitsPerWord], mask));
            i = next;
        }

        return changed;
    }

    /// <summary>Clears a range of bits, a word at a time.</summary>
    /// <param name="start">First bit.</param>
    /// <param name="count">How many.</param>
    /// <returns>How many were set before.</returns>
    public long ClearRange(long start, long count)
    {
        CheckRange(start, count);
        long changed = 0;
        for (long i = start, end = start + count; i < end;)
        {
            ulong mask = RangeMask(i, end, out long next);
            changed += BitOperations.PopCount(mask & Interlocked.And(ref _words[i / BitsPerWord], ~mask));
            i = next;
        }

        return changed;
    }

    /// <summary>Counts the set bits. A walk over the whole bitmap; not a snapshot while others change it.</summary>
    public long CountSet() => CountSet(0, Length);

    /// <summary>Counts the set bits of a range.</summary>
    /// <param name="start">First bit.</param>
    /// <param name="count">How many.</param>
    public long CountSet(long start, long count)
    {
        CheckRange(start, count);
        long set = 0;
        for (long i = start, end = start + count; i < end;)
        {
            ulong mask = RangeMask(i, end, out long next);
            set += BitOperations.PopCount(mask & Volatile.Read(ref _words[i / BitsPerWord]));
            i = next;
        }

        return set;
    }

    /// <summary>True when every bit of the range is set.</summary>
    /// <param name="start">First bit.</param>
    /// <param name="count">How many.</param>
    public bool AllSet(long start, long count)
    {
        CheckRange(start, count);
        return FindNext(start, start + count, invert: true) < 0;
    }

    /// <summary>True when some bit of the range is set.</summary>
    /// <param name="start">First bit.</param>
    /// <param name="count">How many.</param>
    public bool AnySet(long start, long count)
    {
        CheckRange(start, count);
        return FindNext(start, start + count, invert: false) >= 0;
    }

    /// <summary>Finds the first set bit at or after <paramref name="from"/>.</summary>
    /// <param name="from">Where to begin; <see cref="Length"/> finds nothing.</param>
    /// <param name="index">The bit.</param>
    public bool TryFindNextSet(long from, out long index)
    {
        CheckRange(from, 0);
        index = FindNext(from, Length, invert: false);
        return index >= 0;
    }

    /// <summary>As <see cref="TryFindNextSet(long, out long)"/>, and looks no further than the limit.</summary>
    internal bool TryFindNextSet(long from, long limit, out long index)
    {
        CheckRange(from, limit - from);
        index = FindNext(from, limit, invert: false);
        return index >= 0;
    }

    /// <summary>Finds the first clear bit at or after <paramref name="from"/>.</summary>
    /// <param name="from">Where to begin; <see cref="Length"/> finds nothing.</param>
    /// <param name="index">The bit.</param>
    public bool TryFindNextClear(long from, out long index)
    {
        CheckRange(from, 0);
        index = FindNext(from, Length, invert: true);
        return index >= 0;
    }

    /// <summary>Finds the next run of clear bits at or after <paramref name="from"/>: for a received bitmap, the next missing range.</summary>
    /// <param name="from">Where to begin.</param>
    /// <param name="limit">Where to stop looking and cut the run.</param>
    /// <param name="start">First clear bit.</param>
    /// <param name="count">Length of the run, at least 1; bits that others set meanwhile may be in it.</param>
    public bool TryFindNextClearRun(long from, long limit, out long start, out long count)
    {
        CheckRange(from, limit - from);
        start = FindNext(from, limit, invert: true);
        if (start < 0)
        {
            count = 0;
            return false;
        }

        InterleavingPoint.Yield("run.found");

        // From the bit after it: another thread may have set the first one meanwhile, and a run of 0 would be an ioctl of
        // length 0. That it is set now costs one "already present".
        long end = start + 1 < limit ? FindNext(start + 1, limit, invert: false) : -1;
        count = (end < 0 ? limit : end) - start;
        return true;
    }

    /// <summary>Unmaps the bitmap; no other thread may use it.</summary>
    public void Dispose()
    {
        Release();
        GC.SuppressFinalize(this);
    }

    /// <summary>Sets a range, and in <paramref name="other"/> the bits that were clear here.</summary>
    internal void SetRangeInto(long start, long count, PageBitmap other)
    {
        CheckRange(start, count);
        for (long i = start, end = start + count; i < end;)
        {
            ulong mask = RangeMask(i, end, out long next);
            InterleavingPoint.Yield("bitmap.set");
            ulong changed = mask & ~Interlocked.Or(ref _words[i / BitsPerWord], mask);
            _ = Interlocked.Or(ref other._words[i / BitsPerWord], changed);
            i = next;
        }
    }

    /// <summary>
    /// Clears a range, and in <paramref name="other"/> the bits that were set here. Those of <paramref name="other"/> go
    /// first: whoever finds a bit clear here finds it clear there as well.
    /// </summary>
    /// <returns>How many were set here.</returns>
    internal long ClearRangeInto(long start, long count, PageBitmap other)
    {
        CheckRange(start, count);
        long changed = 0;
        for (long i = start, end = start + count; i < end;)
        {
            ulong mask = RangeMask(i, end, out long next);
            ulong seen = mask & Volatile.Read(ref _words[i / BitsPerWord]);
            if (seen != 0)
            {
                _ = Interlocked.And(ref other._words[i / BitsPerWord], ~seen);
            }

            InterleavingPoint.Yield("bitmap.forget");
            ulong set = mask & Interlocked.And(ref _words[i / BitsPerWord], ~mask);
            if ((set & ~seen) != 0)
            {
                _ = Interlocked.And(ref other._words[i / BitsPerWord], ~set);
            }

            changed += BitOperations.PopCount(set);
            i = next;
        }

        return changed;
    }

    /// <summary>Sets bits of one word. A full fence.</summary>
    internal void OrWord(long wordIndex, ulong bits) => _ = Interlocked.Or(ref _words[wordIndex], bits);

    /// <summary>One word of the bitmap, for scans that combine two bitmaps. An acquire read.</summary>
    internal ulong LoadWord(long wordIndex) => Volatile.Read(ref _words[wordIndex]);

    /// <summary>Words in the bitmap.</summary>
    internal long WordCount => (Length + BitsPerWord - 1) / BitsPerWord;

    private static ulong Mask(long index) => 1UL << (int)(index & (BitsPerWord - 1));

    /// <summary>The bits of one word that lie in [i, end), and where the next word begins.</summary>
    private static ulong RangeMask(long i, long end, out long next)
    {
        next = Math.Min(end, (i | (BitsPerWord - 1)) + 1);
        int count = (int)(next - i);
        ulong ones = count == BitsPerWord ? ulong.MaxValue : (1UL << count) - 1;
        return ones << (int)(i & (BitsPerWord - 1));
    }

    private long FindNext(long from, long end, bool invert)
    {
        for (long i = from; i < end;)
        {
            ulong mask = RangeMask(i, end, out long next);
            ulong word = Volatile.Read(ref _words[i / BitsPerWord]);
            ulong hit = (invert ? ~word : word) & mask;
            if (hit != 0)
            {
                return (i & ~(long)(BitsPerWord - 1)) + BitOperations.TrailingZeroCount(hit);
            }

            i = next;
        }

        return -1;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private ref ulong Word(long index)
    {
        if ((ulong)index >= (ulong)Length)
        {
            ThrowOutOfRange(index, 1);
        }

        return ref _words[index / BitsPerWord];
    }

    private void CheckRange(long start, long count)
    {
        if ((ulong)start > (ulong)Length || (ulong)count > (ulong)(Length - start))
        {
            ThrowOutOfRange(start, count);
        }
    }

    private void ThrowOutOfRange(long start, long count) =>
        throw new ArgumentOutOfRangeException(nameof(start), $"{count} bits from {start} do not lie in a bitmap of {Length} bits.");

    private void Release()
    {
        if (_words is not null && !_borrowed)
        {
            NativeZeroMemory.Unmap((nuint)_words, _bytes);
        }

        _words = null;
    }
}
