namespace Postcopy.Uffd.Benchmarks;

/// <summary>The lab cannot measure: a program is missing, or a baseline broke.</summary>
public sealed class LabException(string message) : Exception(message);
