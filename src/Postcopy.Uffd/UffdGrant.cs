namespace Postcopy.Uffd;

/// <summary>The result of a negotiation: what was granted, what was not and why.</summary>
/// <param name="Granted">The features that are on for the descriptor.</param>
/// <param name="Offered">All that the kernel offers, unknown bits included.</param>
/// <param name="Refused">Optional features that were not granted, one reason each.</param>
public sealed record UffdGrant(UffdFeatures Granted, UffdFeatures Offered, IReadOnlyList<UffdRefusal> Refused)
{
    /// <summary>True when all of <paramref name="features"/> were granted.</summary>
    /// <param name="features">Features.</param>
    public bool Has(UffdFeatures features) => (Granted & features) == features;
}
