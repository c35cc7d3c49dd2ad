namespace Postcopy.Uffd;

/// <summary>A block as one descriptor sees it.</summary>
internal sealed record BlockMapping(IUffdKernel Kernel, nuint Address, UffdModes Modes, UffdOperations Operations)
{
    internal bool HasMinor => (Modes & UffdModes.Minor) != 0;

    internal bool Supports(UffdOperations operations) => (Operations & operations) == operations;
}
