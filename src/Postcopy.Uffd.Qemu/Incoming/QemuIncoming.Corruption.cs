namespace Postcopy.Uffd.Qemu;

/// <content>Pages whose checksum says that they arrived damaged.</content>
/// <remarks>
/// A damaged page is never placed and never marked received, so it is missing like one that did not come; but the source has
/// sent it and would not send it again for a plain request. Hence a message of its own. It may be lost with its connection:
/// the bitmaps of the recovery then say the same. A page of the precopy passes is not asked for before the switch, when the
/// source could not tell a copy that is on its way from one that is wanted; it is discarded then, and asked for.
/// </remarks>
public sealed partial class QemuIncoming
{
    // Host pages that arrived damaged before the switch; the main thread's.
    private readonly HashSet<(RamBlock Block, long Offset)> _spoiled = [];
    private long _corruptPages;

    private void LeaveOut(IncomingLink link, QemuStreamReader reader, ChannelPlacer placer)
    {
        RamBlock block = _blocks[reader.Block!.Index];
        long hostPage = block.PageSize.AlignDown(reader.PageOffset);
        _ = Interlocked.Increment(ref _corruptPages);
        _options.OnCorruptPage?.Invoke(reader.CorruptPage);
        if (_stream.Phase == StreamPhase.Advise)
        {
            _ = _spoiled.Add((block, hostPage));
        }
        else if (placer.AddCorrupt(block, reader.PageOffset) && !block.Received.Test(block.PageSize.IndexOf(hostPage)))
        {
            link.Writer.ResendPages(reader.Block, hostPage, block.PageSize.Bytes);
        }
    }

    private void DiscardSpoiled(DiscardCheck check)
    {
        foreach ((RamBlock block, long offset) in _spoiled)
        {
            PageRange range = new(offset, block.PageSize.Bytes);
            check.Add(block, range);
            _destination.Discard(block, [range]);
        }
    }

    private void AskForSpoiled(IncomingLink link)
    {
        try
        {
            foreach ((RamBlock block, long offset) in _spoiled)
            {
                link.Writer.ResendPages(_streamBlocks[block], offset, block.PageSize.Bytes);
            }
        }
        catch (MigrationConnectionException)
        {
            // The main thread sees it too; they are missing, and the next connection learns of it.
        }
    }
}
