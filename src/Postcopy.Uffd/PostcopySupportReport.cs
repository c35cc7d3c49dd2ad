namespace Postcopy.Uffd;

/// <summary>The answer of <see cref="PostcopySupport.Check"/>: what was tried on scratch memory and how it came out.</summary>
/// <param name="Kind">The kind of memory.</param>
/// <param name="PageSize">Its page size.</param>
/// <param name="Checks">
/// The checks in order, of the names <c>open</c>, <c>user-mode-only</c>, <c>handshake</c>, <c>thread-id</c>,
/// <c>memory</c>, <c>locked-memory</c>, <c>register</c>, <c>fault</c>, <c>discard</c>, <c>zeropage</c>, <c>move</c>,
/// <c>huge-move</c>, <c>continue</c> and <c>poison</c>. Those behind a failed one that they need are missing.
/// </param>
/// <param name="Operations">What works on registered memory of this kind; none when it could not be registered.</param>
public sealed record PostcopySupportReport(
    GuestMemoryKind Kind, PageSize PageSize, IReadOnlyList<HostCheck> Checks, UffdOperations Operations)
{
    /// <summary>True when nothing failed; there may be warnings.</summary>
    public bool IsSupported => Checks.All(c => c.Status != HostCheckStatus.Failed);

    /// <summary>True when messages carry the faulting thread, which blocktime needs.</summary>
    public bool HasThreadId => Checks.Any(c => c is { Name: "thread-id", Status: HostCheckStatus.Ok });

    /// <summary>The answer in a sentence, and one line per check.</summary>
    public override string ToString() => HostCheck.Lines(
        $"Postcopy of {Kind} memory in pages of {PageSize} is {(IsSupported ? "supported" : "NOT supported")} by this host ({Environment.OSVersion.VersionString}).", Checks);
}
