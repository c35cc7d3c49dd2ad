namespace Postcopy.Uffd;

/// <summary>A stretch of time in which one vCPU was blocked; the timeline is made of these.</summary>
/// <param name="Slot">The vCPU slot's index.</param>
/// <param name="Start">When the fault was read.</param>
/// <param name="End">When the wait ended, or the moment of the reading.</param>
/// <param name="Open">Whether the wait goes on after the reading.</param>
public readonly record struct BlockedInterval(int Slot, long Start, long End, bool Open);
