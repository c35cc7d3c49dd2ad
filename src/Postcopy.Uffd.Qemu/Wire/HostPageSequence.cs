namespace Postcopy.Uffd.Qemu;

/// <summary>
/// Watches that the target pages of one host page arrive in one ascending run. Per channel: with preempt the main channel
/// stays in the middle of a huge page while another one comes on the urgent channel.
/// </summary>
/// <remarks>
/// QEMU serves a request target page by target page. Broken in the middle of one, it goes on behind the break when it is
/// resumed: the first run of a resumed channel may start inside its host page. What is in front of it comes later as a run
/// from the host page's start that ends there, on this channel or the other one (docs/qemu.md).
/// </remarks>
internal struct HostPageSequence
{
    /// <summary>One for the late beginning of this channel's first host page, one for the other channel's.</summary>
    private const int MostEarlyEnds = 2;

    private StreamRamBlock? _block;
    private long _next;
    private int _earlyEnds;
    private bool _begun;
    private bool _fromStart;

    /// <summary>Takes the next page; null when it is in order, else what was expected.</summary>
    /// <param name="block">Its block.</param>
    /// <param name="offset">Bytes from the block's start.</param>
    /// <param name="targetPageSize">Bytes of a page of the stream.</param>
    /// <param name="isResumed">The migration was resumed: host pages may come in two parts.</param>
    internal string? Accept(StreamRamBlock block, long offset, int targetPageSize, bool isResumed)
    {
        if (_block is not null && (!ReferenceEquals(block, _block) || offset != _next) && !TryEndEarly(isResumed))
        {
            return $"the rest of the host page, {Describe()}";
        }

        if (_block is null)
        {
            _fromStart = (offset & (block.PageSize - 1)) == 0;
            if (!_fromStart && (_begun || !isResumed))
            {
                return $"the first page of a host page of {block.PageSize} bytes";
            }
        }

        _begun = true;
        long next = offset + targetPageSize;
        bool complete = (next & (block.PageSize - 1)) == 0;
        _block = complete ? null : block;
        _next = next;
        return null;
    }

    /// <summary>Ends an open host page before its last target page; false when that is not legal.</summary>
    internal bool TryEndEarly(bool isResumed)
    {
        if (_block is null)
        {
            return true;
        }

        if (!isResumed || !_fromStart || _earlyEnds == MostEarlyEnds)
        {
            return false;
        }

        _earlyEnds++;
        _block = null;
        return true;
    }

    internal readonly string Describe() => $"block '{_block?.Name}' offset 0x{_next:x}";
}
