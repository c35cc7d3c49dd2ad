namespace Postcopy.Uffd;

/// <summary>
/// Guest memory could not be handed over: the peer is not there, was refused or refuses, or what it sent is not
/// acceptable. Nothing was lost: the owner keeps its descriptor, waiters wait, and another hand-over may follow.
/// </summary>
public sealed class HandoffException : Exception
{
    internal HandoffException(string message, Exception? inner = null)
        : base(message, inner)
    {
    }

    /// <summary>The peer answered, and said no.</summary>
    internal bool IsRefusal { get; init; }
}
