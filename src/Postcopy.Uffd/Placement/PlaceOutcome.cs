namespace Postcopy.Uffd;

/// <summary>What became of a placement. Only the first three leave the pages of the range received.</summary>
public enum PlaceOutcome
{
    /// <summary>Every page of the range is placed by this call, or was received before.</summary>
    Placed = 0,

    /// <summary>Every page was received before; nothing was done.</summary>
    AlreadyReceived,

    /// <summary>
    /// The kernel had some page already, and the page tables confirm it; its waiters were woken. Another placer was
    /// faster, or somebody wrote the page before it was registered.
    /// </summary>
    AlreadyPresent,

    /// <summary>The range is not made of whole pages inside the block, or the block is not attached to a descriptor.</summary>
    InvalidRange,

    /// <summary>
    /// The address space went on changing until the deadline (<see cref="PlacerOptions.Deadline"/>): somebody enabled
    /// events and does not read them. Nothing is lost; place the page again.
    /// </summary>
    AddressSpaceChanging,

    /// <summary>The block is not registered with its descriptor any more: it was unmapped or moved.</summary>
    NotRegistered,

    /// <summary>
    /// The pool of huge pages was exhausted until the deadline: the kernel says "already present" for a page that is not there (hazard
    /// H7). Reserve pages (vm.nr_hugepages) and place it again.
    /// </summary>
    OutOfHugePages,

    /// <summary>The kernel had no memory until the deadline.</summary>
    OutOfMemory,

    /// <summary>The source bytes could not be read, or the block lies beyond the end of its file.</summary>
    SourceUnreadable,

    /// <summary>The process whose memory it is has gone: a clean end.</summary>
    TargetGone,

    /// <summary>The kernel answered something that no kernel is known to answer; <see cref="PlaceResult.Kernel"/> has it.</summary>
    Unexpected,
}
