namespace Postcopy.Uffd;

/// <summary>A page that was asked for and stays away.</summary>
/// <param name="Block">Its block.</param>
/// <param name="Offset">Bytes from the start of the block.</param>
/// <param name="Age">How long it has been open; late by at most a quarter of the alarm's time.</param>
public sealed record StallAlarm(RamBlock Block, long Offset, TimeSpan Age)
{
    /// <summary>The page and its age.</summary>
    public override string ToString() => $"page at offset 0x{Offset:x} of RAM block '{Block.Name}' open for {Age.TotalSeconds:0.0} s";
}
