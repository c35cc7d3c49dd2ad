namespace Postcopy.Uffd;

/// <summary>How <see cref="PostcopyDestination.CollapseAsync"/> gives a complete guest its huge pages back.</summary>
public sealed record CollapseOptions
{
    /// <summary>
    /// The part of the time that may be spent collapsing, more than 0 and at most 1; the default is 0.1. A thread that touches
    /// a stretch while it is collapsed waits for it, and no blocktime sees that.
    /// </summary>
    public double Share { get; init; } = 0.1;

    /// <summary>
    /// Of the 512 pages of a stretch, how many may be zero or absent: in a huge page they take memory. The default is 448;
    /// what has more is left in small pages.
    /// </summary>
    public int MostZeroPages { get; init; } = 448;

    internal void Validate()
    {
        if (!(Share > 0 && Share <= 1))
        {
            throw new ArgumentOutOfRangeException(nameof(Share), Share, "The share of time for collapsing is more than 0 and at most 1.");
        }

        if (MostZeroPages is < 0 or > 512)
        {
            throw new ArgumentOutOfRangeException(nameof(MostZeroPages), MostZeroPages, "A stretch has 512 pages; 0 to 512 of them may be zero.");
        }
    }
}
