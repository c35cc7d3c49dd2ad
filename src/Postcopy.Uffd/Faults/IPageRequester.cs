namespace Postcopy.Uffd;

/// <summary>How pages are asked for: implemented by the transport.</summary>
public interface IPageRequester
{
    /// <summary>
    /// Asks the source for pages. Called on the fault thread only, one call at a time: it must not block, allocate,
    /// log, throw or touch guest memory; while it runs no other fault is served. A call that began before
    /// <see cref="PostcopyDestination.Pause"/> may still run when that returns; it answers Disconnected.
    /// </summary>
    /// <param name="request">What is wanted.</param>
    RequestOutcome TryRequest(in PageRequest request);
}
