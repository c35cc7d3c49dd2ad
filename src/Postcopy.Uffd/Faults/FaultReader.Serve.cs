namespace Postcopy.Uffd;

/// <content>One fault message, from "is it known?" to the request.</content>
internal sealed unsafe partial class FaultReader
{
    private const int DuplicatesBeforePause = 256;
    private const long FirstDuplicatePause = 20_000;
    private const long LongestDuplicatePause = 200_000;

    private int _duplicatesInARow;
    private long _duplicatePause;

    private void Serve(FaultSource source, in UffdMessage message, long readAt)
    {
        Count(Counter.Messages);

        // Some kernels give the exact address unasked: the page is found by shifting, never by trusting alignment.
        if (!source.Map.TryFind(message.Address, out RamBlock? block, out long offset) || (message.Flags & UffdPagefaultFlags.WriteProtect) != 0)
        {
            Count(Counter.Unknown);
            return;
        }

        long page = block!.PageSize.IndexOf(offset);
        if (!block.Received.Test(page) && ServeMissing(block, page, message.ThreadId, readAt))
        {
            return;
        }

        ServeReceived(source, block, page, message, readAt);
    }

    /// <summary>
    /// The page is missing. First the stall is published, then the request bit, then received is looked at again: the
    /// partner is PostcopyPlacer.Commit, which sets received and then looks at requested. TestAndSet is a full fence.
    /// </summary>
    /// <returns>False when the page was received meanwhile.</returns>
    private bool ServeMissing(RamBlock block, long page, uint threadId, long readAt)
    {
        nuint address = block.HostAddress + (nuint)(page << block.PageSize.Shift);
        BlocktimeTicket ticket = _blocktime is null ? default : _blocktime.Begin(threadId, address, readAt, _wokeAt).Ticket;
        bool requested = block.Requested.TestAndSet(page);
        if (block.Received.Test(page))
        {
            _blocktime?.Cancel(ticket);
            return false;
        }

        _blocktime?.Confirm(ticket);

        if (requested)
        {
            Duplicate();
            return true;
        }

        _duplicatesInARow = 0;
        _duplicatePause = 0;
        if (!_placer.TryPlaceStaged(block, page))
        {
            Request(new PageRequest(block, page << block.PageSize.Shift, block.PageSize.Bytes));
        }

        return true;
    }

    /// <summary>
    /// A signal that stays pending makes the kernel repeat a fault of kernel mode 300 000 times a second (hazard H2).
    /// After a while of nothing but repetitions the reader lets a little time pass before it reads on.
    /// </summary>
    private void Duplicate()
    {
        Count(Counter.Duplicates);
        if (++_duplicatesInARow >= DuplicatesBeforePause)
        {
            _duplicatesInARow = 0;
            _duplicatePause = _duplicatePause == 0 ? FirstDuplicatePause : Math.Min(_duplicatePause * 2, LongestDuplicatePause);
            Interop.Libc.Pause(_duplicatePause);
        }
    }

    private void ServeReceived(FaultSource source, RamBlock block, long page, in UffdMessage message, long readAt)
    {
        bool minor = (message.Flags & UffdPagefaultFlags.Minor) != 0;
        if (!source.IsPrimary)
        {
            Count(Counter.AlreadyReceived);
            nuint start = message.Address & ~(nuint)(block.PageSize.Bytes - 1);
            if (minor && source.Kernel.Continue(start, (nuint)block.PageSize.Bytes, UffdPlaceFlags.None).IsDone)
            {
                return;
            }

            _ = source.Kernel.Wake(start, (nuint)block.PageSize.Bytes);
            return;
        }

        Settle(block, page, minor, message.ThreadId, readAt);
    }

    /// <summary>Received, and yet a thread waits: see <see cref="PostcopyPlacer.ResolveReceived"/>.</summary>
    private void Settle(RamBlock block, long page, bool minor, uint threadId, long readAt)
    {
        switch (_placer.ResolveReceived(block, page, minor))
        {
            case PlaceOutcome.Placed:
                Count(Counter.ZeroFilled);
                RecordZeroFill(block, page, threadId, readAt);
                break;
            case PlaceOutcome.AddressSpaceChanging:
            case PlaceOutcome.OutOfMemory:
                Park(block, page, minor, threadId, readAt);
                break;
            case PlaceOutcome.OutOfHugePages:
                _observer.OnUnservable(block, page << block.PageSize.Shift, PlaceOutcome.OutOfHugePages);
                break;
            default:
                Count(Counter.AlreadyReceived);
                break;
        }
    }

    /// <summary>The thread did stand still: from the message to the zero page.</summary>
    private void RecordZeroFill(RamBlock block, long page, uint threadId, long readAt)
    {
        if (_blocktime is null)
        {
            return;
        }

        nuint address = block.HostAddress + (nuint)(page << block.PageSize.Shift);
        _blocktime.Confirm(_blocktime.Begin(threadId, address, readAt).Ticket);
        _blocktime.End(address, (nuint)block.PageSize.Bytes, _blocktime.Now());
    }
}
