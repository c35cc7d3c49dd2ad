namespace Postcopy.Uffd;

/// <summary>Pages are missing where none may be. The guest's memory is as it was.</summary>
public sealed class PostcopyIncompleteException : Exception
{
    internal PostcopyIncompleteException(string message)
        : base(message)
    {
    }
}
