namespace Postcopy.Uffd;

/// <content>Huge pages for a guest that is complete.</content>
public sealed partial class PostcopyDestination
{
    /// <summary>
    /// Collapses what postcopy left in small pages into transparent huge pages, at a measured pace (MADV_COLLAPSE, Linux 6.1).
    /// khugepaged does the same in its own time, minutes to hours for a large guest.
    /// </summary>
    /// <param name="options">How fast, and what is left alone; null for the defaults.</param>
    /// <param name="cancellationToken">Stops between two stretches; what was collapsed stays so.</param>
    /// <returns>What was done, and how long the guest may have stood still for it: blocktime sees nothing of that.</returns>
    /// <exception cref="PostcopyStateException">The guest is not complete.</exception>
    /// <exception cref="ArgumentOutOfRangeException">An option is out of its range.</exception>
    /// <remarks>
    /// Before the destination is closed or after; the memory must stay mapped until the end. Memory that was locked is
    /// collapsed too. Blocks of huge pages are passed over.
    /// </remarks>
    public Task<CollapseReport> CollapseAsync(CollapseOptions? options = null, CancellationToken cancellationToken = default)
    {
        HugePageCollapse collapse = new(options ?? new CollapseOptions());
        AddressRange[] ranges;
        lock (_steps)
        {
            RequireLocked(nameof(CollapseAsync), PostcopyState.End);
            ranges = [.. Blocks.Blocks.Where(b => b.PageSize == PageSize.Host && !b.IsForeign).Select(b => b.Range)];
        }

        // Each call is a millisecond of the kernel's: not the caller's thread.
        return Task.Run(() => collapse.RunAsync(ranges, cancellationToken), cancellationToken);
    }
}
