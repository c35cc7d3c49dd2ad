using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd;

/// <summary>
/// Address space that maps the kernel's huge zero page as often as there are stretches to move: a read fault of untouched
/// memory that may have huge pages. It costs no memory.
/// </summary>
internal sealed class HugeZeroStaging : IDisposable
{
    /// <summary>Stretches that are moved at once: a few calls a GiB, and none that keeps a waiter for long.</summary>
    internal const int Stretches = 16;

    private const long Bytes = (long)Stretches * HugeStaging.Bytes;

    private nuint _address;

    ~HugeZeroStaging() => Release();

    internal nuint Address => _address;

    /// <summary>Maps it so many times, from the start on.</summary>
    /// <returns>
    /// False when the kernel has no huge zero page to give: use_zero_page of transparent_hugepage is 0, or a read fault takes memory
    /// as a write does (kernels that are a guest under PVM). Also when it does not tell it from memory: PAGEMAP_SCAN calls it zero
    /// since a fix of June 2025 ("fs/proc/task_mmu: fix PAGE_IS_PFNZERO detection for the huge zero folio").
    /// </returns>
    internal bool TryMap(long stretches)
    {
        if (_address == 0)
        {
            _address = HugeStaging.MapAligned(Bytes);
        }

        nuint length = (nuint)(stretches * HugeStaging.Bytes);
        bool mapped = Libc.madvise(_address, length, Libc.MADV_POPULATE_READ) == 0 && PageTables.IsHuge(_address, length, zero: true);
        if (!mapped)
        {
            // Whatever came instead is memory.
            Release();
        }

        return mapped;
    }

    public void Dispose()
    {
        Release();
        GC.SuppressFinalize(this);
    }

    private void Release()
    {
        if (_address != 0)
        {
            NativeZeroMemory.Unmap(_address, (nuint)Bytes);
            _address = 0;
        }
    }
}
