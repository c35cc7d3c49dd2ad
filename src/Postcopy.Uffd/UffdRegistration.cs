namespace Postcopy.Uffd;

/// <summary>A registered range and what it really supports.</summary>
/// <param name="Range">The range.</param>
/// <param name="Modes">The modes it is registered with.</param>
/// <param name="Operations">
/// What works on it: the kernel's mask, less MOVE where the mask is known to be wrong (memory that is not anonymous,
/// and descriptors of another process).
/// </param>
public readonly record struct UffdRegistration(AddressRange Range, UffdModes Modes, UffdOperations Operations)
{
    /// <summary>True when every one of <paramref name="operations"/> works on the range.</summary>
    /// <param name="operations">Operations.</param>
    public bool Supports(UffdOperations operations) => (Operations & operations) == operations;
}
