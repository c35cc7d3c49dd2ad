namespace Postcopy.Uffd;

/// <summary>Whether whole stretches of 2 MiB are placed as transparent huge pages.</summary>
public enum StretchPlacement
{
    /// <summary>
    /// Where kernel and memory allow it: MOVE (Linux 6.8), private anonymous memory of this process, a stretch that is aligned
    /// to 2 MiB in memory and of which nothing was touched or placed yet, and huge pages to be had. All else is copied.
    /// </summary>
    Auto = 0,

    /// <summary>Never: pages are copied.</summary>
    Off,

    /// <summary>
    /// As <see cref="Auto"/>, and a fault in a stretch of which nothing is placed or asked for asks for all of it and waits
    /// until all has come, or for <see cref="PlacerOptions.StretchPatience"/> once its page has: a guest whose threads touch memory at random
    /// keeps its huge pages, and faults once where it would have faulted up to 512 times. The first touch waits for 2 MiB of the link
    /// instead of 4 KiB. Needs Linux 6.14, which frees page tables, and no <see cref="PostcopyOptions.FollowMemoryEvents"/>; else faults
    /// ask page by page. A channel stages up to eight stretches (16 MiB). What the source left of a stretch is asked for while there is one
    /// window only: with an urgent channel (postcopy-preempt) fewer stretches get full.
    /// </summary>
    WholeOnFault,
}
