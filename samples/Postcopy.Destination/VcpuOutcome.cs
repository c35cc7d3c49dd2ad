namespace Postcopy.Destination;

/// <summary>What the touching threads found.</summary>
internal readonly record struct VcpuOutcome(long Touches, long Wrong);
