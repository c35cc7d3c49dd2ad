using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;
using System.Runtime.InteropServices;
using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd;

/// <summary>
/// The VMM process's side of serving faults out of process: owns memory, descriptor and received bitmaps, hands them to
/// handler processes one after the other, and completes. Neither this process's garbage collector nor a handler's crash
/// can stop or corrupt the guest.
/// </summary>
/// <remarks>
/// <para>Order: add blocks, <see cref="Register"/>, then <see cref="Connect"/> to a handler, or <see cref="KeepServedAsync"/>,
/// which replaces handlers that die; at last <see cref="Complete"/>. The descriptor stays open here all the while, so the
/// death of a handler freezes whoever touches a missing page and never shows it zeros (hazard H11).</para>
/// <para>While the memory is handed over its pages are placed by the handler: nothing here places or discards.</para>
/// <para>Thread-safe. Linux 5.3 for pidfds; thread ids of faults are not asked for.</para>
/// </remarks>
public sealed partial class HandoffOwner : IDisposable
{
    // Owners that were closed with KeepWaiting: their descriptors live as long as the process (hazard H11).
    private static readonly List<HandoffOwner> s_keptForever = [];

    private readonly HandoffOwnerOptions _options;
    private readonly ILogger _logger;
    private readonly Lock _steps = new();
    private readonly Dictionary<RamBlock, long> _sourceOffsets = [];

    private UffdHandle? _uffd;
    private UffdGrant? _grant;
    private HandoffState? _state;
    private byte[] _message = [];
    private SafeHandle[] _descriptors = [];
    private ProcessHandle? _self;
    private HandlerConnection? _connection;
    private bool _closed;

    /// <summary>Makes an owner without memory.</summary>
    /// <param name="options">How it works; null for the defaults.</param>
    /// <exception cref="ArgumentOutOfRangeException">An option is out of its range.</exception>
    public HandoffOwner(HandoffOwnerOptions? options = null)
    {
        _options = options ?? new HandoffOwnerOptions();
        _options.Validate();
        _logger = (_options.LoggerFactory ?? NullLoggerFactory.Instance).CreateLogger<HandoffOwner>();
    }

    /// <summary>The guest's RAM. While it is handed over, received bits are set by the handler.</summary>
    public RamBlockRegistry Blocks { get; } = new();

    /// <summary>The descriptor, from <see cref="Register"/> to the end; null else.</summary>
    public UffdHandle? Uffd => _uffd;

    /// <summary>Pages that are not there yet, in bytes: counted in the bitmaps, so by no means free.</summary>
    public long MissingBytes => Blocks.MissingBytes;

    /// <summary>Handlers that took the memory so far.</summary>
    public long Handlers => _state?.Read(HandoffState.Word.Generation) ?? 0;

    /// <summary>Adds a block.</summary>
    /// <param name="spec">What it is made of.</param>
    /// <param name="sourceOffset">Where its content begins in the source's image, in bytes; for the handler.</param>
    /// <exception cref="RamBlockException">The specification is not acceptable; the message says what is.</exception>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="sourceOffset"/> is negative.</exception>
    /// <exception cref="InvalidOperationException">The memory is registered already.</exception>
    public RamBlock Add(RamBlockSpec spec, long sourceOffset)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(sourceOffset);
        lock (_steps)
        {
            RamBlock block = Blocks.Add(spec);
            _sourceOffsets.Add(block, sourceOffset);
            return block;
        }
    }

    /// <summary>
    /// Opens the userfaultfd and registers the memory: every page that is not received is really missing from here on, and
    /// who touches one waits for a handler.
    /// </summary>
    /// <exception cref="UffdException">No userfaultfd, or a block cannot be registered; none is then.</exception>
    /// <exception cref="RamBlockException">A block's memory is locked with mlock(2), which would touch every page.</exception>
    /// <exception cref="HandoffException">There are more blocks than a hand-over holds, or no memory for the shared state.</exception>
    /// <exception cref="InvalidOperationException">There is no block, or it was called before.</exception>
    public void Register()
    {
        lock (_steps)
        {
            ObjectDisposedException.ThrowIf(_closed, this);
            if (_uffd is not null || Blocks.Blocks.Count == 0)
            {
                throw new InvalidOperationException(_uffd is null ? "There is no RAM block; add the guest's memory first." : "The memory is registered already.");
            }

            Blocks.Freeze();
            UffdHandle uffd = UffdHandle.Open(_options.Open);
            try
            {
                // No events: one that a handler reads and dies with would be lost for the next.
                _grant = uffd.Negotiate(UffdFeatures.None,
                    UffdFeatures.MissingShmem | UffdFeatures.MissingHugetlbfs | UffdFeatures.MinorShmem | UffdFeatures.MinorHugetlbfs | UffdFeatures.Poison);
                Prepare();
                IReadOnlyList<HandoffBlock> described = RegisterAll(uffd);
                ShareBitmaps(described);
                _uffd = uffd;
            }
            catch
            {
                // Nobody was told to wait yet: closing the descriptor ends every registration.
                foreach (RamBlock block in Blocks.Blocks)
                {
                    block.TakeBack();
                    block.Detach();
                }

                _state?.Dispose();
                _state = null;
                uffd.Dispose();
                Blocks.Thaw();
                throw;
            }

            if (uffd.UserModeOnly)
            {
                Log.UserModeOnly(_logger);
            }
        }
    }

    private void Prepare()
    {
        List<ProcessMaps.Mapping> mappings = ProcessMaps.All(withFlags: true);
        foreach (RamBlock block in Blocks.Blocks)
        {
            AddressRange range = block.Range;
            if (mappings.Exists(m => m.Range.Overlaps(range) && m.IsLocked))
            {
                throw new RamBlockException(block.Name, $"RAM block '{block.Name}' is locked memory: munlock it before it is registered, lock it when it is complete (hazard H21).");
            }

            if (block.PageSize == PageSize.Host)
            {
                _ = Libc.madvise(range.Start, range.Length, Libc.MADV_NOHUGEPAGE);
            }

            int shift = block.PageSize.Shift;
            for (long page = 0; block.Received.TryFindNextClearRun(page, block.PageCount, out long first, out long count); page = first + count)
            {
                block.Discard(new PageRange(first << shift, count << shift));
            }
        }
    }

    private IReadOnlyList<HandoffBlock> RegisterAll(UffdHandle uffd)
    {
        List<HandoffBlock> described = [];
        List<SafeHandle> files = [];
        long[] bitmaps = HandoffState.Layout(Blocks.Blocks.Select(b => b.PageCount));
        foreach (RamBlock block in Blocks.Blocks)
        {
            bool minor = block.IsShared && _grant!.Has(block.PageSize == PageSize.Host ? UffdFeatures.MinorShmem : UffdFeatures.MinorHugetlbfs);
            UffdRegistration registration = uffd.Register(block.Range, minor ? UffdModes.Missing | UffdModes.Minor : UffdModes.Missing);
            block.Attach(uffd, registration);
            int memory = -1;
            if (block.Memory?.File is { } file)
            {
                memory = HandoffMessage.FixedDescriptors + files.Count;
                files.Add(file);
            }

            described.Add(new HandoffBlock(block.Name, block.Range, block.PageSize, _sourceOffsets.GetValueOrDefault(block),
                registration.Modes, registration.Operations, bitmaps[described.Count], memory, block.IsShared));
        }

        _state = HandoffState.Create(bitmaps[^1]);
        _self = ProcessHandle.OfThisProcess();
        _message = new HandoffMessage(_grant!.Granted, _state.Length, described, HandoffMessage.FixedDescriptors + files.Count).Encode();
        _descriptors = [uffd, _state.File, _self.Descriptor, .. files];
        return described;
    }

    private void ShareBitmaps(IReadOnlyList<HandoffBlock> described)
    {
        for (int i = 0; i < described.Count; i++)
        {
            Blocks.Blocks[i].HandOver(_state!.AddressOf(described[i].BitmapOffset));
        }
    }
}
