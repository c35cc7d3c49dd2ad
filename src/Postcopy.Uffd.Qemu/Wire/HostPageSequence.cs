namespace Postcopy.Uffd.Qemu;

/// <summary>
/// Watches that the target pages of one host page arrive in one ascending run. Per channel: with preempt the main channel
/// stays in the middle of a huge page while another one comes on the urgent channel.
/// </summary>
internal struct HostPageSequence
{
    private StreamRamBlock? _block;
    private long _next;

    /// <summary>True while a host page is begun and not complete.</summary>
    internal readonly bool IsOpen => _block is not null;

    /// <summary>Takes the next page; null when it is in order, else what was expected.</summary>
    internal string? Accept(StreamRamBlock block, long offset, int targetPageSize)
    {
        if (_block is null)
        {
            if ((offset & (block.PageSize - 1)) != 0)
            {
                return $"the first page of a host page of {block.PageSize} bytes";
            }
        }
        else if (!ReferenceEquals(block, _block) || offset != _next)
        {
            return $"the rest of the host page, {Describe()}";
        }

        long next = offset + targetPageSize;
        bool complete = (next & (block.PageSize - 1)) == 0;
        _block = complete ? null : block;
        _next = next;
        return null;
    }

    internal readonly string Describe() => $"block '{_block?.Name}' offset 0x{_next:x}";
}
