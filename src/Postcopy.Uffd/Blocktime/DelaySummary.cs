namespace Postcopy.Uffd;

/// <summary>A measuring delay that the host reported along with the stamps; it is an estimate and bounds nothing.</summary>
/// <param name="Count">How many episodes it is known for.</param>
/// <param name="MeanNanoseconds">The mean.</param>
/// <param name="MaxNanoseconds">The largest.</param>
public readonly record struct DelaySummary(long Count, long MeanNanoseconds, long MaxNanoseconds);
