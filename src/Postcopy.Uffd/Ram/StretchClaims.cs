using System.Runtime.CompilerServices;
using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd;

/// <summary>
/// Who may change a stretch of a block. A stretch is 2 MiB, or one page if pages are larger. Placers and leases hold
/// it shared; whoever throws pages away holds it exclusively, so that it cannot erase a page whose received bit was
/// just set (placement.md, "What makes it safe").
/// </summary>
/// <remarks>
/// One word a stretch: the number of shared holders, or -1 for the exclusive one. Several stretches are always taken
/// in ascending order, so two takers cannot wait for each other. The fault thread takes none: it never waits here.
/// Interlocked operations are full fences; the holder sees all that the previous one wrote. Models: tests/models/discard.pml
/// and stretch.pml.
/// </remarks>
internal sealed unsafe class StretchClaims : IDisposable
{
    private const int Exclusive = -1;

    private readonly nuint _bytes;
    private int* _words;

    internal StretchClaims(long usedLength, PageSize pageSize)
    {
        Shift = Math.Max(pageSize.Shift, PageSize.TwoMiB.Shift);
        Count = ((usedLength - 1) >> Shift) + 1;
        _bytes = (nuint)(Count * sizeof(int));
        _words = (int*)NativeZeroMemory.Map(_bytes);
    }

    ~StretchClaims() => Release();

    internal int Shift { get; }

    internal long Count { get; }

    internal long StretchOf(long offset) => offset >> Shift;

    internal void AcquireShared(long stretch)
    {
        BackOff wait = default;
        while (!TryAcquireShared(stretch))
        {
            wait.Pause();
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal bool TryAcquireShared(long stretch)
    {
        ref int word = ref _words[stretch];
        while (true)
        {
            InterleavingPoint.Yield("claim.share");
            int seen = Volatile.Read(ref word);
            if (seen == Exclusive)
            {
                return false;
            }

            if (Interlocked.CompareExchange(ref word, seen + 1, seen) == seen)
            {
                return true;
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal void ReleaseShared(long stretch)
    {
        InterleavingPoint.Yield("claim.unshare");
        _ = Interlocked.Decrement(ref _words[stretch]);
    }

    internal void AcquireExclusive(long first, long count)
    {
        for (long s = first; s < first + count; s++)
        {
            BackOff wait = default;
            while (!TryAcquireExclusive(s))
            {
                wait.Pause();
            }
        }
    }

    internal bool TryAcquireExclusive(long stretch)
    {
        InterleavingPoint.Yield("claim.take");
        return Interlocked.CompareExchange(ref _words[stretch], Exclusive, 0) == 0;
    }

    internal void ReleaseExclusive(long first, long count)
    {
        for (long s = first; s < first + count; s++)
        {
            InterleavingPoint.Yield("claim.give");
            Volatile.Write(ref _words[s], 0);
        }
    }

    public void Dispose()
    {
        Release();
        GC.SuppressFinalize(this);
    }

    private void Release()
    {
        if (_words is not null)
        {
            NativeZeroMemory.Unmap((nuint)_words, _bytes);
            _words = null;
        }
    }
}
