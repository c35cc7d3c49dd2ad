using System.Diagnostics;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;
using Microsoft.Win32.SafeHandles;

namespace Postcopy.Uffd;

/// <summary>
/// The memory of one owner process, in the handler: its blocks by the owner's addresses, the fault thread that reads its
/// faults, and the placer that puts pages into it.
/// </summary>
/// <remarks>
/// <para>Made by <see cref="HandoffListener.Accept"/>; <see cref="Start"/> begins to serve. Whatever an earlier handler left
/// behind, killed in mid-fault or not, is taken over: received pages are in the shared bitmap, and all waiters are woken,
/// so that the kernel tells of each open fault anew.</para>
/// <para>COPY and ZEROPAGE work on another process's memory, MOVE does not; nothing here reads or writes it.</para>
/// <para>Threads: <c>postcopy-fault</c> and <c>postcopy-handoff</c> of its own. The fault path allocates nothing. Stop
/// your placing threads before <see cref="Dispose"/>.</para>
/// </remarks>
[DebuggerDisplay("{ToString(),nq}")]
public sealed partial class HandoffSession : IDisposable
{
    private readonly HandoffListenerOptions _options;
    private readonly ILogger _logger;
    private readonly DescriptorSocket _connection;
    private readonly UffdHandle _uffd;
    private readonly HandoffState? _state;
    private readonly ProcessHandle? _owner;
    private readonly SafeFileHandle? _ownerPageTables;
    private readonly Dictionary<RamBlock, HandoffBlock> _described = [];
    private readonly Dictionary<RamBlock, SafeFileHandle> _files = [];
    private readonly FaultReader _reader;
    private readonly StuckFaultWatch _stuckFaults;

    private HandoffSession(DescriptorSocket connection, HandoffListenerOptions options, UffdHandle uffd, HandoffState? state,
        ProcessHandle? owner, SafeFileHandle? ownerPageTables, int ownerProcessId)
    {
        _connection = connection;
        _options = options;
        _uffd = uffd;
        _state = state;
        _owner = owner;
        _ownerPageTables = ownerPageTables;
        OwnerProcessId = ownerProcessId;
        _logger = (options.LoggerFactory ?? NullLoggerFactory.Instance).CreateLogger<HandoffSession>();

        // Firecracker always enables remove events, for its balloon; this library's owner enables none.
        LayoutGate? gate = state is null ? new LayoutGate() : null;
        Placer = new PostcopyPlacer(options.Placer) { Gate = gate, Observer = this };
        _reader = new FaultReader(options.FaultReader, Placer, blocktime: null, Blocks, gate, this);
        _reader.AddSource(new FaultSource(uffd, uffd.Descriptor, Blocks, isPrimary: true));
        _stuckFaults = new StuckFaultWatch(_reader, Blocks, TimeProvider.System, options.StuckFaultCheck, ReportStuck);
    }

    /// <summary>The owner's RAM: names, sizes and received pages. The addresses are the owner's and mean nothing here.</summary>
    public RamBlockRegistry Blocks { get; } = new();

    /// <summary>Puts pages into the owner's memory, from any number of threads.</summary>
    public PostcopyPlacer Placer { get; }

    /// <summary>What the fault thread did.</summary>
    public FaultStatistics Faults => _reader.Statistics;

    /// <summary>The owner's process as numbered here; 0 when it lives in a pid namespace that is not visible.</summary>
    public int OwnerProcessId { get; }

    /// <summary>True when the owner spoke as Firecracker does.</summary>
    public bool IsFirecracker => _state is null;

    /// <summary>How many handlers served this memory, this one included; 1 for Firecracker.</summary>
    public long Generation { get; private set; } = 1;

    /// <summary>Why the session ended; completes on the session's own thread when there is nothing left to serve.</summary>
    public Task<HandoffSessionEnd> Ended => _ended.Task;

    /// <summary>What the fault thread died of, after <see cref="HandoffSessionEnd.Failed"/>.</summary>
    public Exception? Failure { get; private set; }

    /// <summary>Pages that are not there yet, of all blocks, in bytes.</summary>
    public long MissingBytes => Blocks.MissingBytes;

    /// <summary>Where the content of a block begins in the source's image, in bytes, as the owner said.</summary>
    /// <param name="block">A block of this session.</param>
    /// <exception cref="ArgumentException">It is another session's.</exception>
    public long SourceOffsetOf(RamBlock block) => Described(block).SourceOffset;

    /// <summary>
    /// The memory file of a shared block, when the owner sent it: a handler that maps it may write pages there and place
    /// them with <see cref="PostcopyPlacer.PlacePageCache"/>. Owned by the session.
    /// </summary>
    /// <param name="block">A block of this session.</param>
    /// <exception cref="ArgumentException">It is another session's.</exception>
    public SafeFileHandle? MemoryFileOf(RamBlock block)
    {
        _ = Described(block);
        return _files.TryGetValue(block, out SafeFileHandle? file) ? file : null;
    }

    /// <summary>Begins to serve: reads faults, and wakes whoever waits already.</summary>
    /// <param name="requester">Asks the source for pages, on the fault thread.</param>
    /// <exception cref="InvalidOperationException">It was started already.</exception>
    public void Start(IPageRequester requester)
    {
        ArgumentNullException.ThrowIfNull(requester);
        if (Interlocked.Exchange(ref _started, 1) != 0)
        {
            throw new InvalidOperationException("This session serves already.");
        }

        Blocks.Freeze();
        _reader.SetRequester(requester);
        _reader.Start();
        StartControl();

        // Messages that an earlier handler read and did not answer are lost with it: a woken thread faults again.
        foreach (RamBlock block in Blocks.Blocks)
        {
            block.WakeEverywhere(0, block.UsedLength);
        }
    }

    /// <summary>
    /// Ends serving and closes the descriptor. The owner keeps its own: with pages missing, who touches one waits for the
    /// next handler.
    /// </summary>
    public void Dispose()
    {
        if (Interlocked.Exchange(ref _disposed, 1) != 0)
        {
            return;
        }

        StopControl();
        _reader.Dispose();
        foreach (RamBlock block in Blocks.Blocks)
        {
            block.Detach();
        }

        // The descriptor before the connection: when the owner sees the end, nothing here reads faults any more.
        _uffd.Dispose();
        _connection.Dispose();
        foreach (SafeFileHandle file in _files.Values)
        {
            file.Dispose();
        }

        Blocks.Thaw();
        Blocks.Dispose();
        _state?.Dispose();
        _owner?.Dispose();
        _ownerPageTables?.Dispose();
    }

    /// <summary>Whose memory it is and how far it got.</summary>
    public override string ToString() =>
        $"memory of process {OwnerProcessId}{(IsFirecracker ? " (Firecracker)" : string.Empty)}, {Blocks.Blocks.Count} blocks of {Blocks.TotalLength} bytes, handler number {Generation}";

    private HandoffBlock Described(RamBlock block)
    {
        ArgumentNullException.ThrowIfNull(block);
        return _described.TryGetValue(block, out HandoffBlock? described)
            ? described
            : throw new ArgumentException($"RAM block '{block.Name}' is not of this session.", nameof(block));
    }
}
