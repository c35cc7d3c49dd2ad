namespace Postcopy.Uffd;

/// <summary>One piece of guest memory that a migration will need.</summary>
/// <param name="Kind">What backs it.</param>
/// <param name="Length">Bytes, more than 0.</param>
public sealed record MemoryPlanBlock(GuestMemoryKind Kind, long Length)
{
    /// <summary>The page size; null for the kind's default.</summary>
    public PageSize? PageSize { get; init; }

    /// <summary>True when the memory will be locked (mlock(2)) after completion.</summary>
    public bool Locked { get; init; }

    internal PageSize EffectivePageSize => PageSize ?? (Kind == GuestMemoryKind.Hugetlb ? Uffd.PageSize.TwoMiB : Uffd.PageSize.Host);
}
