using System.Runtime.CompilerServices;

namespace Postcopy.Uffd.Qemu;

/// <summary>
/// Reads one connection of a QEMU migration record by record. A pull parser: nothing is allocated per page record, and a
/// page's bytes are handed out where the socket put them.
/// </summary>
/// <remarks>
/// Implementation notes. One thread at a time. Each step of the parser either consumes a whole record or nothing, so that
/// <see cref="TryReadBuffered"/> can stop anywhere without a trace. Properties speak of the record read last; addresses and
/// spans are valid until the next <see cref="ReadNext"/>, and stay so over <see cref="TryReadBuffered"/>: with it, all
/// pages that are already here can be gathered before one is placed.
/// </remarks>
public sealed partial class QemuStreamReader : IDisposable
{
    private readonly ReceiveBuffer _buffer;
    private readonly MigrationStreamState _state;
    private readonly QemuStreamOptions _options;
    private readonly ProtocolLimits _limits;
    private PageUnpacker? _unpacker;
    private Step _step = Step.Start;
    private StreamKind _kind;
    private bool _mayFill;

    /// <summary>Reads a connection.</summary>
    /// <param name="channel">The connection; it stays the caller's to dispose.</param>
    /// <param name="state">What the connections of this migration share; a new one for a new migration.</param>
    /// <param name="options">Limits and sizes; null for the defaults.</param>
    /// <param name="kind">What the connection must carry; <see cref="StreamKind.Unknown"/> lets the first bytes tell.</param>
    /// <exception cref="ArgumentOutOfRangeException">The receive buffer is too small.</exception>
    public QemuStreamReader(
        MigrationChannel channel, MigrationStreamState state, QemuStreamOptions? options = null, StreamKind kind = StreamKind.Unknown)
    {
        ArgumentNullException.ThrowIfNull(channel);
        ArgumentNullException.ThrowIfNull(state);
        _options = options ?? new QemuStreamOptions();
        ArgumentOutOfRangeException.ThrowIfLessThan(_options.ReceiveBufferSize, QemuStreamOptions.MinReceiveBufferSize, nameof(options));
        _limits = _options.Limits;
        _state = state;
        _kind = kind;
        _buffer = new ReceiveBuffer(channel, _options.ReceiveBufferSize);
    }

    private enum Step
    {
        Start,
        Configuration,
        ConfigurationSubsections,
        Record,
        Package,
        BlockList,
        RamRecord,
        Footer,
        End,
    }

    /// <summary>What the connection carries; known after <see cref="Detect"/> or the first record.</summary>
    public StreamKind Kind => _kind;

    /// <summary>What the connections of this migration share.</summary>
    public MigrationStreamState State => _state;

    /// <summary>Bytes consumed so far.</summary>
    public long StreamOffset => _buffer.Offset;

    /// <summary>The block of the page, discard or bitmap request read last.</summary>
    public StreamRamBlock? Block { get; private set; }

    /// <summary>The page's offset in <see cref="Block"/>.</summary>
    public long PageOffset { get; private set; }

    /// <summary>Where the page's bytes, or its delta, are in native memory; 0 for zero pages.</summary>
    public nuint Data { get; private set; }

    /// <summary>How many bytes are at <see cref="Data"/>: the target page size, or the delta's length.</summary>
    public int DataLength { get; private set; }

    /// <summary>What was wrong with the page, after <see cref="StreamRecordKind.CorruptPage"/>.</summary>
    public CorruptPage CorruptPage { get; private set; }

    /// <summary>The value of a PING.</summary>
    public uint PingValue { get; private set; }

    /// <summary>The device package, once it was read.</summary>
    public DevicePackage? Package { get; private set; }

    /// <summary>The ranges of a discard, ascending or not, each checked against the block.</summary>
    public ReadOnlySpan<DiscardRange> Discards => _discards.AsSpan(0, _discardCount);

    /// <summary>Page records read so far, packed and delta pages among them.</summary>
    public long PageRecords { get; private set; }

    /// <summary>Zero-page records read so far.</summary>
    public long ZeroPageRecords { get; private set; }

    /// <summary>Waits for the first bytes and tells what the connection carries.</summary>
    /// <remarks>A silent urgent channel stays silent until the first urgent page: do not wait for it where that matters.</remarks>
    /// <exception cref="MigrationStreamException">The bytes begin nothing that is known, or not the kind asked for.</exception>
    /// <exception cref="MigrationConnectionException">The connection ended before.</exception>
    public StreamKind Detect()
    {
        if (_step == Step.Start)
        {
            _mayFill = true;
            StartConnection();
        }

        return _kind;
    }

    /// <summary>Reads the next record, waiting for its bytes. Addresses and spans of earlier records end here.</summary>
    /// <returns>What came; <see cref="StreamRecordKind.EndOfStream"/> again after the end.</returns>
    /// <exception cref="MigrationStreamException">The record is malformed, or not legal in this phase.</exception>
    /// <exception cref="MigrationConnectionException">The connection ended in or before the record.</exception>
    public StreamRecordKind ReadNext()
    {
        _unpacker?.Reset();
        _mayFill = true;
        return Read();
    }

    /// <summary>
    /// Reads the next record only if all its bytes are here: never waits, and leaves addresses of earlier records valid.
    /// </summary>
    /// <returns>What came, or <see cref="StreamRecordKind.None"/> when <see cref="ReadNext"/> must receive first.</returns>
    /// <exception cref="MigrationStreamException">The record is malformed, or not legal in this phase.</exception>
    public StreamRecordKind TryReadBuffered()
    {
        _mayFill = false;
        return Read();
    }

    /// <summary>Frees the receive buffer; all addresses handed out end here.</summary>
    public void Dispose()
    {
        _step = Step.End;
        _buffer.Dispose();
        _unpacker?.Dispose();
        _scatter?.Dispose();
    }

    private StreamRecordKind Read()
    {
        while (true)
        {
            StreamRecordKind kind = StreamRecordKind.None;
            bool stepped = _step switch
            {
                Step.RamRecord => ReadRamRecord(out kind),
                Step.Record => ReadRecord(out kind),
                Step.Footer => ReadFooter(out kind),
                Step.Package => ReadPackage(out kind),
                Step.BlockList => ReadBlockListEntry(out kind),
                Step.Start => StartConnection(),
                Step.Configuration => ReadConfiguration(),
                Step.ConfigurationSubsections => ReadConfigurationSubsection(out kind),
                _ => End(out kind),
            };

            if (!stepped || kind != StreamRecordKind.None)
            {
                return kind;
            }
        }
    }

    private static bool End(out StreamRecordKind kind)
    {
        kind = StreamRecordKind.EndOfStream;
        return true;
    }

    /// <summary>True when count bytes are here, after receiving them if that is allowed now. Spans peeked before are void.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private bool Require(int count) => _buffer.Available >= count || (_mayFill && Fill(count));

    private bool Fill(int count)
    {
        _buffer.Fill(count, _step == Step.Start ? "header" : CurrentSection);
        return true;
    }

    private MigrationStreamException Malformed(int at, string? section, string expected, string actual) =>
        new(_buffer.Offset + at, section, expected, actual);
}
