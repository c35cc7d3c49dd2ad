namespace Postcopy.Uffd;

/// <summary>
/// The one seam to the kernel below placer and fault reader: <see cref="UffdHandle"/> is the real one, a simulated
/// one drives them through schedules that a real kernel shows once a year. An interface call costs nothing beside an
/// ioctl (docs/decisions/0002-kernel-seam.md).
/// </summary>
internal interface IUffdKernel
{
    int Read(Span<UffdMessage> into, out UffdOutcome outcome);

    UffdResult Wake(nuint start, nuint length);

    UffdResult Copy(nuint destination, nuint source, nuint length, UffdPlaceFlags flags);

    UffdResult Zeropage(nuint start, nuint length, UffdPlaceFlags flags);

    UffdResult Move(nuint destination, nuint source, nuint length, UffdMoveFlags flags);

    UffdResult Continue(nuint start, nuint length, UffdPlaceFlags flags);

    UffdResult Poison(nuint start, nuint length, UffdPlaceFlags flags);

    /// <summary>Asks the page tables, not the ioctl, whether a page is there (hazard H7).</summary>
    bool IsPresent(nuint address);
}
