namespace Postcopy.Uffd.Qemu;

/// <content>Host pages on the wire.</content>
public sealed partial class QemuSource
{
    /// <summary>Sends what was asked for and is not sent yet, and nothing of it stays in the buffer.</summary>
    private int SendRequested(QemuStreamWriter writer, PageRange pages)
    {
        int sent = 0;
        for (long page = pages.First; page < pages.End; page++)
        {
            if (_dirty[pages.Block].TryTake(page))
            {
                int count = SendHostPage(writer, pages.Block, page);
                Interlocked.Add(ref _urgentPages, count);
                writer.Flush();
                sent++;
            }
        }

        return sent;
    }

    /// <summary>Sends all target pages of a host page, in one run; how many those were.</summary>
    private int SendHostPage(QemuStreamWriter writer, int block, long page)
    {
        StreamRamBlock target = _blocks[block];
        SourceRamBlock source = _memory.Blocks[block];
        long start = page * target.PageSize;
        int zeros = 0;
        for (long offset = start; offset < start + target.PageSize; offset += TargetPageSize)
        {
            zeros += writer.Page(_memory, source, target, offset, _options.DetectZeroPages) ? 1 : 0;
        }

        int count = (int)(target.PageSize / TargetPageSize);
        Interlocked.Add(ref _zeroPages, zeros);
        Interlocked.Add(ref _pages, count - zeros);
        return count;
    }
}
