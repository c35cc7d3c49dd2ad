namespace Postcopy.Uffd;

/// <summary>One block as the hand-over describes it; addresses are the owner's.</summary>
/// <param name="Name">Its name, 1 to 255 bytes of UTF-8.</param>
/// <param name="Range">Where it lies in the owner's address space.</param>
/// <param name="PageSize">The size of its pages.</param>
/// <param name="SourceOffset">Where its content begins in the source's image, in bytes.</param>
/// <param name="Modes">How it is registered.</param>
/// <param name="Operations">What works on it.</param>
/// <param name="BitmapOffset">Where its received bitmap begins in the shared state, in bytes.</param>
/// <param name="Memory">Index of the descriptor of its memory file, or -1.</param>
/// <param name="Shared">True for shared memory.</param>
internal sealed record HandoffBlock(string Name, AddressRange Range, PageSize PageSize, long SourceOffset, UffdModes Modes,
    UffdOperations Operations, long BitmapOffset, int Memory, bool Shared)
{
    internal long PageCount => (long)Range.Length >> PageSize.Shift;
}
