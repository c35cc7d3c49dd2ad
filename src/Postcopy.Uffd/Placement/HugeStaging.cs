using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd;

/// <summary>
/// One transparent huge page of our own, filled and then moved into the guest, which leaves a hole that the next one is
/// backed for. Not inherited by fork: a page that a child shares is busy for ever (hazard H43).
/// </summary>
/// <remarks>Used by one thread. Cleared by the kernel when it is backed; after a fall-back it holds what was put in (hazard H41).</remarks>
internal sealed class HugeStaging : IDisposable
{
    internal const int Bytes = 2 << 20;

    private nuint _address;
    private bool _backed;

    private readonly MemoryPolicy _policy = new();
    private RamBlock? _policyOf;

    internal HugeStaging() => _address = MapAligned(Bytes);

    ~HugeStaging() => Release();

    internal nuint Address => _address;

    /// <summary>True when nothing was written since it was backed.</summary>
    internal bool IsClear { get; private set; }

    /// <summary>Address space for whole huge pages that is not inherited by fork, not dumped, and backed when it is touched.</summary>
    internal static nuint MapAligned(long bytes)
    {
        nuint length = (nuint)bytes;
        nuint area = NativeZeroMemory.Map(length + Bytes);
        nuint address = (area + Bytes - 1) & ~(nuint)(Bytes - 1);
        if (address > area)
        {
            NativeZeroMemory.Unmap(area, address - area);
        }

        if (area + Bytes > address)
        {
            NativeZeroMemory.Unmap(address + length, area + Bytes - address);
        }

        _ = Libc.madvise(address, length, Libc.MADV_HUGEPAGE);
        _ = Libc.madvise(address, length, Libc.MADV_DONTFORK);
        _ = Libc.madvise(address, length, Libc.MADV_DONTDUMP);
        return address;
    }

    /// <summary>
    /// The page that is moved stays on its node: it is taken from where the guest's memory is to be (hazard H42).
    /// </summary>
    internal void FollowPolicyOf(RamBlock block)
    {
        if (_policyOf != block)
        {
            _policyOf = block;
            if (_policy.TryFollow(block.HostAddress, _address, Bytes))
            {
                Renew();
            }
        }
    }

    /// <summary>Backs it by a huge page, unless it is.</summary>
    /// <returns>False when the host has none to give; the attempt may have cost a compaction.</returns>
    internal bool TryBack()
    {
        if (_backed)
        {
            return true;
        }

        if (Libc.madvise(_address, Bytes, Libc.MADV_POPULATE_WRITE) != 0 || !PageTables.IsHuge(_address, Bytes))
        {
            Renew();
            return false;
        }

        _backed = true;
        IsClear = true;
        return true;
    }

    /// <summary>Something is being written into it.</summary>
    internal void Soil() => IsClear = false;

    /// <summary>Its page is in the guest now.</summary>
    internal void Moved() => _backed = false;

    /// <summary>Lets its page go: it was split, or a child holds on to it.</summary>
    internal void Renew()
    {
        _ = Libc.madvise(_address, Bytes, Libc.MADV_DONTNEED);
        _backed = false;
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
            NativeZeroMemory.Unmap(_address, Bytes);
            _address = 0;
        }
    }
}
