namespace Postcopy.Uffd.Qemu;

/// <summary>
/// After the last discard the missing pages are exactly the discarded ones (qemu-wire.md 2.5): a page that neither came
/// nor was discarded would never come, and the guest would wait for it for ever.
/// </summary>
internal sealed class DiscardCheck : IDisposable
{
    private readonly Dictionary<RamBlock, PageBitmap> _discarded = [];

    internal void Add(RamBlock block, PageRange range)
    {
        if (!_discarded.TryGetValue(block, out PageBitmap? pages))
        {
            _discarded.Add(block, pages = new PageBitmap(block.PageCount));
        }

        _ = pages.SetRange(block.PageSize.IndexOf(range.Offset), range.Length >> block.PageSize.Shift);
    }

    internal void Verify(IEnumerable<RamBlock> blocks)
    {
        foreach (RamBlock block in blocks)
        {
            // The guest stands still meanwhile: by runs, so by whole words of the bitmaps.
            _ = _discarded.TryGetValue(block, out PageBitmap? discarded);
            for (long from = 0; block.Received.TryFindNextClearRun(from, block.PageCount, out long start, out long count); from = start + count)
            {
                if (discarded is null || !discarded.AllSet(start, count))
                {
                    long page = start;
                    _ = discarded?.TryFindNextClear(start, out page);
                    throw new QemuIncomingException(
                        $"The page at offset 0x{page << block.PageSize.Shift:x} of RAM block '{block.Name}' neither came nor was discarded; it would never come.", sourceMayResume: true);
                }
            }
        }
    }

    public void Dispose()
    {
        foreach (PageBitmap pages in _discarded.Values)
        {
            pages.Dispose();
        }
    }
}
