namespace Postcopy.Uffd;

/// <summary>What became of a page request.</summary>
public enum RequestOutcome
{
    /// <summary>It is on its way, or safely queued by the requester.</summary>
    Sent = 0,

    /// <summary>No room just now; the fault thread asks again soon.</summary>
    Busy,

    /// <summary>The link is down; the request is sent again after <see cref="PostcopyDestination.Resume"/>.</summary>
    Disconnected,
}
