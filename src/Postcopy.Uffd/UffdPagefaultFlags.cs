namespace Postcopy.Uffd;

/// <summary>How a thread touched the page: <c>UFFD_PAGEFAULT_FLAG_*</c>. Unknown bits are kept.</summary>
[Flags]
public enum UffdPagefaultFlags : ulong
{
    /// <summary>A read of a missing page.</summary>
    None = 0,

    /// <summary>A write.</summary>
    Write = 1,

    /// <summary>A write to a write-protected page.</summary>
    WriteProtect = 2,

    /// <summary>The page is in the page cache and not mapped here.</summary>
    Minor = 4,
}
