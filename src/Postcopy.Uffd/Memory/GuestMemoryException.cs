namespace Postcopy.Uffd;

/// <summary>Guest memory could not be had or changed. The message has the value, the limit and the remedy.</summary>
public sealed class GuestMemoryException : Exception
{
    internal GuestMemoryException(string operation, int errno, string message)
        : base(message)
    {
        Operation = operation;
        Errno = errno;
    }

    /// <summary>The system call that failed.</summary>
    public string Operation { get; }

    /// <summary>Its errno.</summary>
    public int Errno { get; }
}
