namespace Postcopy.Uffd.Qemu;

/// <summary>
/// The peer sent something that the protocol does not allow here. The stream cannot be followed any further; pages that were
/// placed before stay as they are.
/// </summary>
public sealed class MigrationStreamException : Exception
{
    internal MigrationStreamException(long streamOffset, string? section, string expected, string actual, Exception? inner = null)
        : base($"Migration stream at byte {streamOffset}{(section is null ? "" : $", {section}")}: expected {expected}, got {actual}.", inner)
    {
        StreamOffset = streamOffset;
        Section = section;
        Expected = expected;
        Actual = actual;
    }

    /// <summary>Where the wrong bytes start, counted from the first byte of this connection.</summary>
    public long StreamOffset { get; }

    /// <summary>The part of the stream they are in, for example "ram", "configuration" or "POSTCOPY_ADVISE"; null between records.</summary>
    public string? Section { get; }

    /// <summary>What would have been right, with the limit where one was broken.</summary>
    public string Expected { get; }

    /// <summary>What was there instead.</summary>
    public string Actual { get; }
}
