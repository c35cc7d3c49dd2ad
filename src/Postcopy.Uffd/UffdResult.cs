using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd;

/// <summary>The result of one userfaultfd operation: a named outcome, the bytes done and the raw errno.</summary>
/// <param name="Outcome">What happened.</param>
/// <param name="Bytes">Bytes done, from the start of the range; 0 unless the outcome is Done or Partial.</param>
/// <param name="Errno">The kernel's errno, 0 on success; for diagnostics only.</param>
public readonly record struct UffdResult(UffdOutcome Outcome, long Bytes, int Errno)
{
    /// <summary>True when the whole range was done.</summary>
    public bool IsDone => Outcome == UffdOutcome.Done;

    /// <summary>The outcome, bytes and errno in one line.</summary>
    public override string ToString() =>
        Errno == 0 ? $"{Outcome}, {Bytes} bytes" : $"{Outcome}, {Bytes} bytes, {Interop.Errno.Describe(Errno)}";
}
