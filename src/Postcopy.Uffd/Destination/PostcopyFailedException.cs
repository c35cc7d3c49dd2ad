namespace Postcopy.Uffd;

/// <summary>
/// The destination cannot go on: a defect, an exhausted pool of huge pages, a memory layout that changed under it.
/// Placed pages are right; whoever touches a missing one stays frozen.
/// </summary>
public sealed class PostcopyFailedException : Exception
{
    internal PostcopyFailedException(string message, Exception? inner = null)
        : base(message, inner)
    {
    }
}
