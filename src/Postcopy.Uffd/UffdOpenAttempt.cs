namespace Postcopy.Uffd;

/// <summary>One way of opening a userfaultfd that was tried and refused.</summary>
/// <param name="Way">What was tried: a device path or a system call.</param>
/// <param name="Errno">The kernel's answer.</param>
/// <param name="Remedy">What makes it work.</param>
public sealed record UffdOpenAttempt(string Way, int Errno, string Remedy);
