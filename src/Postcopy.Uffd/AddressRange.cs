namespace Postcopy.Uffd;

/// <summary>A range of virtual addresses: where it starts and how many bytes it has.</summary>
/// <param name="Start">First address.</param>
/// <param name="Length">Bytes.</param>
public readonly record struct AddressRange(nuint Start, nuint Length)
{
    /// <summary>The first address after the range.</summary>
    public nuint End => Start + Length;

    /// <summary>True when <paramref name="address"/> lies inside.</summary>
    /// <param name="address">An address.</param>
    public bool Contains(nuint address) => address - Start < Length;

    /// <summary>True when the two ranges share at least one byte.</summary>
    /// <param name="other">Another range.</param>
    public bool Overlaps(AddressRange other) => Start < other.End && other.Start < End;

    /// <summary>The part common to both ranges; length 0 when there is none.</summary>
    /// <param name="other">Another range.</param>
    public AddressRange Intersect(AddressRange other)
    {
        nuint start = Start > other.Start ? Start : other.Start;
        nuint end = End < other.End ? End : other.End;
        return end > start ? new(start, end - start) : new(start, 0);
    }

    /// <summary>The range as <c>[0xstart, 0xend)</c>.</summary>
    public override string ToString() => $"[0x{(ulong)Start:x}, 0x{(ulong)End:x})";
}
