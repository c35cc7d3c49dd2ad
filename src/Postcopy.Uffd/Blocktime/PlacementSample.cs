namespace Postcopy.Uffd;

/// <summary>How much had been placed at a moment; two of them make a rate.</summary>
/// <param name="At">The moment, on the clock of <see cref="BlocktimeTracker.Now"/>, in nanoseconds.</param>
/// <param name="Bytes">Bytes placed until then.</param>
public readonly record struct PlacementSample(long At, long Bytes);
