namespace Postcopy.Uffd;

/// <summary>Answers whether this host can do postcopy, by trying it.</summary>
/// <remarks>
/// The counterpart of QEMU's <c>postcopy_ram_supported_by_host</c>. Feature bits and register masks are not
/// trusted alone (a mask names MOVE for shared memory, where it does not work): each operation is done on a few pages
/// of scratch memory, with a real fault by a thread that waits for its page. Takes a few milliseconds; nothing of the
/// process's own memory is touched.
/// </remarks>
public static class PostcopySupport
{
    /// <summary>Tries postcopy on scratch memory of the kind.</summary>
    /// <param name="kind">The kind of memory that the guest will have.</param>
    /// <param name="pageSize">Its page size; null for the kind's default.</param>
    /// <param name="options">How to open the userfaultfd; null for the defaults.</param>
    /// <returns>A report; what the host lacks is in it and never an exception.</returns>
    /// <exception cref="ArgumentException">The kind does not exist, or cannot have the page size.</exception>
    public static PostcopySupportReport Check(GuestMemoryKind kind, PageSize? pageSize = null, UffdOpenOptions? options = null)
    {
        PageSize size = pageSize ?? (kind == GuestMemoryKind.Hugetlb ? PageSize.TwoMiB : PageSize.Host);
        GuestMemory.Validate(new GuestMemoryOptions { Kind = kind, PageSize = size, Length = size.Bytes }, size);
        PostcopyTrial trial = new(kind, size, options ?? new UffdOpenOptions());
        trial.Run();
        return new PostcopySupportReport(kind, size, trial.Checks, trial.Operations);
    }
}
