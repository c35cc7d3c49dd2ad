using System.Collections.Concurrent;

namespace Postcopy.Uffd;

/// <content>
/// What placers and the fault thread tell the destination. They only note it and kick the control thread, which does what
/// may log, lock or call the host.
/// </content>
public sealed partial class PostcopyDestination : IPlacementObserver, IFaultObserver
{
    private readonly ConcurrentQueue<(string What, int Value, int Errno)> _refusedPriorities = new();

    void IPlacementObserver.OnPlaced(RamBlock block, bool awaited)
    {
        // A full fence stands between the received bit and these reads (MarkReceived); the partner is AddWaiter. The
        // control thread is not bothered with every fault while all that waits is the end. Model: tests/models/finish.pml.
        if ((awaited && Volatile.Read(ref _rangeWaiterCount) != 0) || (block.MissingPages == 0 && Volatile.Read(ref _waiterCount) != 0))
        {
            _controlKick.Signal();
        }
    }

    void IPlacementObserver.OnStretchLeft(RamBlock block, long firstPage) =>
        RequestMissing(block, new PageRange(firstPage << block.PageSize.Shift, PostcopyPlacer.StretchBytes));

    void IFaultObserver.OnReaderFailed(Exception e) => NoteFailure(new PostcopyFailedException("The fault thread ended: " + e.Message, e));

    void IFaultObserver.OnUnservable(RamBlock? block, long offset, PlaceOutcome outcome) =>
        NoteFailure(new PostcopyFailedException(outcome == PlaceOutcome.OutOfHugePages
            ? $"The pool of huge pages ran dry at offset 0x{offset:x} of RAM block '{block?.Name}'; reserve more (vm.nr_hugepages)."
            : $"The memory layout of RAM block '{block?.Name}' changed at offset 0x{offset:x} in a way that cannot be followed ({outcome})."));

    void IFaultObserver.OnPriorityRefused(string what, int value, int errno)
    {
        _refusedPriorities.Enqueue((what, value, errno));
        _controlKick.Signal();
    }

    /// <summary>Callable from the fault thread: notes the first reason and leaves the rest to the control thread.</summary>
    private void NoteFailure(Exception failure)
    {
        _ = Interlocked.CompareExchange(ref _failure, failure, null);
        _controlKick.Signal();
    }

    private void LogRefusedPriorities()
    {
        while (_refusedPriorities.TryDequeue(out (string What, int Value, int Errno) refused))
        {
            Log.PriorityRefused(_logger, refused.What, refused.Value, refused.Errno);
        }
    }
}
