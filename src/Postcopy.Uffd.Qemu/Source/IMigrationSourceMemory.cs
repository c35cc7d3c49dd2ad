namespace Postcopy.Uffd.Qemu;

/// <summary>The memory that a <see cref="QemuSource"/> serves.</summary>
public interface IMigrationSourceMemory
{
    /// <summary>The blocks; the same list for the whole migration.</summary>
    IReadOnlyList<SourceRamBlock> Blocks { get; }

    /// <summary>Copies memory out.</summary>
    /// <param name="block">One of <see cref="Blocks"/>.</param>
    /// <param name="offset">First byte, a multiple of the target page.</param>
    /// <param name="destination">What to fill completely: whole target pages of one host page, in the send buffer.</param>
    /// <remarks>Two threads may ask at once, one for requested pages and one for the rest.</remarks>
    void ReadPages(SourceRamBlock block, long offset, Span<byte> destination);
}
