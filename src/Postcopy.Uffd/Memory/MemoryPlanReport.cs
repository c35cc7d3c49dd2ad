namespace Postcopy.Uffd;

/// <summary>The answer of <see cref="MemoryPlan.Check"/>.</summary>
/// <param name="Checks">
/// One check per limit, of the names <c>memory-available</c>, <c>overcommit</c>, <c>cgroup-memory</c>,
/// <c>cgroup-hugetlb</c>, <c>huge-pages</c>, <c>mappings</c> and <c>locked-memory</c>.
/// </param>
public sealed record MemoryPlanReport(IReadOnlyList<HostCheck> Checks)
{
    /// <summary>True when no limit is too small; there may be warnings.</summary>
    public bool IsSufficient => Checks.All(c => c.Status != HostCheckStatus.Failed);

    /// <summary>The answer in a sentence, and one line per limit.</summary>
    public override string ToString() => HostCheck.Lines(
        IsSufficient ? "The host has what the migration needs." : "The host has NOT what the migration needs; do not start it.", Checks);
}
