namespace Postcopy.Uffd.Qemu;

/// <summary>How a stream is read.</summary>
public sealed record QemuStreamOptions
{
    /// <summary>The smallest receive buffer: the longest command and a page fit.</summary>
    public const int MinReceiveBufferSize = 128 * 1024;

    /// <summary>The limits on what the stream may claim.</summary>
    public ProtocolLimits Limits { get; init; } = ProtocolLimits.Default;

    /// <summary>Bytes of native memory that the socket is read into, at least <see cref="MinReceiveBufferSize"/>.</summary>
    public int ReceiveBufferSize { get; init; } = 512 * 1024;

    /// <summary>
    /// The host page size of the source in bytes: the page size of each block whose page size is not on the wire. The stream
    /// does not tell it; POSTCOPY_ADVISE gives away a wrong one.
    /// </summary>
    public int SourceHostPageSize { get; init; } = Environment.SystemPageSize;

    /// <summary>
    /// Refuse pages without a checksum (<see cref="QemuSourceOptions.PageChecksums"/>). Checksums that are there are verified
    /// in any case, and after the first page with one every other must have one too.
    /// </summary>
    public bool RequirePageChecksums { get; init; }
}
