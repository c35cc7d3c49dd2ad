namespace Postcopy.Uffd;

/// <summary>The result of a placement.</summary>
/// <param name="Outcome">What happened, or what stopped it.</param>
/// <param name="Offset">Where it stopped in the block; the end of the range when it did not.</param>
/// <param name="PagesPlaced">Pages that became received by this call.</param>
/// <param name="Kernel">The kernel's last answer; for diagnostics.</param>
public readonly record struct PlaceResult(PlaceOutcome Outcome, long Offset, long PagesPlaced, UffdResult Kernel)
{
    /// <summary>True when every page of the range is received now.</summary>
    public bool IsReceived => Outcome <= PlaceOutcome.AlreadyPresent;

    /// <summary>Outcome and reason in one line.</summary>
    public override string ToString() => IsReceived ? $"{Outcome}, {PagesPlaced} pages" : $"{Outcome} at offset {Offset} ({Kernel})";
}
