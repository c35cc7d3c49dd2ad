namespace Postcopy.Uffd;

/// <summary>
/// Managed sight of a range of guest memory that is complete: while the lease is held no page of it can be thrown
/// away through this library, so a touch cannot fault, and <see cref="GuestMemory"/> that is disposed meanwhile stays
/// mapped until the lease ends. Dispose it soon; a discard waits for it.
/// </summary>
/// <remarks>
/// It does not hold against a host that calls madvise(2) or hole punching on the range behind the library's back:
/// balloons go through <see cref="RamBlock.Discard"/>.
/// </remarks>
public readonly ref struct PresentLease
{
    private readonly RamBlock _block;
    private readonly long _first;
    private readonly long _count;

    internal PresentLease(RamBlock block, long first, long count, ReadOnlySpan<byte> span)
    {
        _block = block;
        _first = first;
        _count = count;
        Span = span;
    }

    /// <summary>The bytes. The guest may write them at the same time.</summary>
    public ReadOnlySpan<byte> Span { get; }

    /// <summary>Gives the range back; <see cref="Span"/> must not be used any more.</summary>
    public void Dispose() => _block?.ReleaseLease(_first, _count);
}
