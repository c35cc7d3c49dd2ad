namespace Postcopy.Uffd;

/// <summary>A feature that was asked for and not granted.</summary>
/// <param name="Feature">The feature.</param>
/// <param name="Reason">Why, with the first kernel or the privilege that has it.</param>
public sealed record UffdRefusal(UffdFeatures Feature, string Reason);
