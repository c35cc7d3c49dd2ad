namespace Postcopy.Uffd;

/// <summary>No way of opening a userfaultfd worked. The message names each way, its errno and the remedy.</summary>
public sealed class UffdOpenException : UffdException
{
    internal UffdOpenException(IReadOnlyList<UffdOpenAttempt> attempts)
        : base("userfaultfd", attempts.Count == 0 ? 0 : attempts[^1].Errno, Describe(attempts))
    {
        Attempts = attempts;
    }

    /// <summary>Every way that was tried, in order.</summary>
    public IReadOnlyList<UffdOpenAttempt> Attempts { get; }

    private static string Describe(IReadOnlyList<UffdOpenAttempt> attempts) =>
        "No userfaultfd could be opened." +
        string.Concat(attempts.Select(a => $"{Environment.NewLine}  {a.Way}: {Interop.Errno.Describe(a.Errno)}. {a.Remedy}"));
}
