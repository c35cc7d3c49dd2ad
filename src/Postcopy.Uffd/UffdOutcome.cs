namespace Postcopy.Uffd;

/// <summary>
/// What the kernel did with one operation. Everything that the kernel documents has a name here; no operation throws
/// for it.
/// </summary>
public enum UffdOutcome
{
    /// <summary>The whole range was done.</summary>
    Done = 0,

    /// <summary>
    /// The kernel stopped after <see cref="UffdResult.Bytes"/> bytes (EAGAIN with progress), whatever stopped it: a
    /// page that is already there, a signal, a changing address space. Repeating with the rest tells the reason.
    /// </summary>
    Partial,

    /// <summary>
    /// The first page is already there (EEXIST). Its waiters are <em>not</em> woken by this: call
    /// <see cref="UffdHandle.Wake"/>. On hugetlb memory it is also what an exhausted pool answers, with the page absent.
    /// </summary>
    AlreadyPresent,

    /// <summary>
    /// An event (remove, unmap, remap, fork) of this address space is not consumed and acted on yet (EAGAIN without
    /// progress). Read all messages, then repeat after a pause.
    /// </summary>
    AddressSpaceChanging,

    /// <summary>
    /// The range is not registered with this descriptor, or crosses the border of a mapping (ENOENT). MOVE answers
    /// <see cref="InvalidArgument"/> there.
    /// </summary>
    NotRegistered,

    /// <summary>
    /// MOVE only: the source has a hole and the flags do not allow it, or one of the two ranges is not mapped (ENOENT,
    /// the kernel does not say which).
    /// </summary>
    SourceHoleOrUnmapped,

    /// <summary>The process whose memory this is has gone (ESRCH; ENOSPC on Linux 4.11 and 4.12): a clean end.</summary>
    TargetGone,

    /// <summary>
    /// The kernel refused the arguments (EINVAL): alignment, length 0, a mode that the range does not have, CONTINUE
    /// beyond the end of the file; for MOVE also a destination that is not registered or crosses a mapping's border, a
    /// source that is shared or read-only, ranges of which one is locked, or memory of another process.
    /// </summary>
    InvalidArgument,

    /// <summary>
    /// COPY: the source is not readable, or the destination lies beyond the end of the file (EFAULT, the kernel does
    /// not say which). MOVE: a source page is poisoned.
    /// </summary>
    SourceUnreadable,

    /// <summary>ZEROPAGE and POISON: the range lies beyond the end of the file (EFAULT).</summary>
    BeyondEndOfFile,

    /// <summary>CONTINUE: the page is not in the page cache (EFAULT).</summary>
    NotInPageCache,

    /// <summary>MOVE: a source page is pinned, shared with a fork child or merged (EBUSY).</summary>
    SourceBusy,

    /// <summary>No memory for the page (ENOMEM). A memory cgroup's limit kills the process instead.</summary>
    OutOfMemory,

    /// <summary>The source page has a hardware memory error (EHWPOISON).</summary>
    SourcePoisoned,

    /// <summary>An errno that no kernel is known to return here; <see cref="UffdResult.Errno"/> has it.</summary>
    Unexpected,
}
