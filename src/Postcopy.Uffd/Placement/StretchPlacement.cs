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
}
