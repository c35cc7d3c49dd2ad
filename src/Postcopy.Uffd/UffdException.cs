using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd;

/// <summary>
/// A userfaultfd could not be opened, negotiated, registered or unregistered. What was usable before still is.
/// </summary>
public class UffdException : Exception
{
    internal UffdException(string operation, int errno, string message)
        : base(message)
    {
        Operation = operation;
        Errno = errno;
    }

    /// <summary>The operation that failed, by its C name.</summary>
    public string Operation { get; }

    /// <summary>The errno, 0 when the kernel was not the one to refuse.</summary>
    public int Errno { get; }

    internal static UffdException For(string operation, int errno, string remedy) =>
        new(operation, errno, $"{operation} failed with {Interop.Errno.Describe(errno)}: {remedy}");
}
