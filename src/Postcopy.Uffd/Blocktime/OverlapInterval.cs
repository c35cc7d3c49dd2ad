namespace Postcopy.Uffd;

/// <summary>A stretch of time in which all vCPUs that count were blocked at once; the blocktime is made of these.</summary>
/// <param name="Start">When the last of them blocked.</param>
/// <param name="End">When the first of them went on, or the moment of the reading.</param>
public readonly record struct OverlapInterval(long Start, long End);
