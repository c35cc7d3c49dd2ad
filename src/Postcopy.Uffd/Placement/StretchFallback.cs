namespace Postcopy.Uffd;

/// <summary>Why a stretch of 2 MiB was placed page by page after all.</summary>
internal enum StretchFallback
{
    /// <summary>A thread touched it, or a page of it came another way, before it was full.</summary>
    Disturbed,

    /// <summary>The source paused, ended or went elsewhere before it was full.</summary>
    Unfinished,

    /// <summary>So many of its pages are zero that a huge page would cost more memory than it is worth.</summary>
    Sparse,

    /// <summary>The host had no huge page to give.</summary>
    Unbacked,

    /// <summary>The kernel did not move it: the address space was changing, a fork had shared the page, the memory refuses.</summary>
    Refused,
}
