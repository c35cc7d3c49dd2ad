namespace Postcopy.Uffd;

/// <summary>
/// From an address to the block that is mapped there: sorted arrays and a binary search, so 1024 blocks cost ten
/// steps and no allocation. Immutable; changes make a new one. A descriptor of another process has its own.
/// </summary>
internal sealed class AddressMap
{
    internal static readonly AddressMap Empty = new([]);

    private readonly nuint[] _starts;
    private readonly Entry[] _entries;

    internal AddressMap(IEnumerable<Entry> entries)
    {
        _entries = [.. entries.OrderBy(e => (ulong)e.Range.Start)];
        _starts = [.. _entries.Select(e => e.Range.Start)];
    }

    /// <summary>One mapping of a block.</summary>
    internal readonly record struct Entry(AddressRange Range, RamBlock Block);

    internal IReadOnlyList<Entry> Entries => _entries;

    /// <summary>Where a block is mapped here.</summary>
    internal bool TryFindAddress(RamBlock block, out nuint address)
    {
        foreach (ref readonly Entry entry in _entries.AsSpan())
        {
            if (entry.Block == block)
            {
                address = entry.Range.Start;
                return true;
            }
        }

        address = 0;
        return false;
    }

    internal bool TryFind(nuint address, out RamBlock? block, out long offset)
    {
        nuint[] starts = _starts;
        int low = 0;
        int high = starts.Length;
        while (low < high)
        {
            int middle = (int)((uint)(low + high) >> 1);
            if (starts[middle] <= address)
            {
                low = middle + 1;
            }
            else
            {
                high = middle;
            }
        }

        if (low > 0)
        {
            ref readonly Entry entry = ref _entries[low - 1];
            if (entry.Range.Contains(address))
            {
                block = entry.Block;
                offset = (long)(address - entry.Range.Start);
                return true;
            }
        }

        block = null;
        offset = 0;
        return false;
    }
}
