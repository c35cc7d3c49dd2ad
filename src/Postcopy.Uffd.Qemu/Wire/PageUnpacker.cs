using System.Runtime.InteropServices;

namespace Postcopy.Uffd.Qemu;

/// <summary>Unpacks COMPRESS_PAGE records into native pages that stay valid as long as the receive buffer is not refilled.</summary>
internal sealed unsafe class PageUnpacker : IDisposable
{
    private const int Pages = 64;
    private readonly ZlibInflater _inflater = new();
    private readonly int _pageSize;
    private byte* _base;
    private int _used;

    internal PageUnpacker(int pageSize)
    {
        _pageSize = pageSize;
        // SAFETY: freed in Dispose; cleared so that every page of it is present (H30).
        _base = (byte*)NativeMemory.AlignedAlloc((nuint)(Pages * pageSize), (nuint)pageSize);
        NativeMemory.Clear(_base, (nuint)(Pages * pageSize));
    }

    internal bool IsFull => _used == Pages;

    /// <summary>Gives all pages back; their addresses are not valid any more.</summary>
    internal void Reset() => _used = 0;

    /// <summary>Unpacks exactly one page; null when the data is not a zlib stream of one page.</summary>
    internal nuint? TryUnpack(nuint source, int length)
    {
        byte* page = _base + ((long)_used * _pageSize);
        // SAFETY: the caller gives length bytes of the receive buffer, valid during this call; the page is one of the arena's,
        // and _used < Pages is the caller's to see to (IsFull).
        if (!_inflater.TryInflate(new ReadOnlySpan<byte>((byte*)source, length), new Span<byte>(page, _pageSize)))
        {
            return null;
        }

        _used++;
        return (nuint)page;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        // SAFETY: allocated in the constructor.
        NativeMemory.AlignedFree(_base);
        _base = null;
        _used = Pages;
    }
}
