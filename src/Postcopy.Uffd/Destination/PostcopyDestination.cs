using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;

namespace Postcopy.Uffd;

/// <summary>
/// The destination of a postcopy: composes descriptors, RAM blocks, fault thread, placer and blocktime into one state
/// machine. The host plugs in how pages are asked for (<see cref="IPageRequester"/>) and hands what arrives to
/// <see cref="Placer"/>.
/// </summary>
/// <remarks>
/// <para>States: none, advise, discard, listen, running, end; paused and failed beside them. A step that the state
/// does not allow throws <see cref="PostcopyStateException"/> and changes nothing.</para>
/// <para>Threads: one fault thread and one control thread of its own. Steps may be called from any thread and exclude
/// each other; placing needs no step. Lock order: the step lock, then the registry's, then a block's discard lock;
/// fault and control thread take none of them.</para>
/// <para>Linux 4.11 or newer; blocktime needs 4.14.</para>
/// </remarks>
public sealed partial class PostcopyDestination : IAsyncDisposable
{
    private readonly PostcopyOptions _options;
    private readonly ILogger _logger;
    private readonly Lock _steps = new();
    private readonly LayoutGate? _gate;
    private readonly HashSet<RamBlock> _relock = [];
    private readonly HashSet<RamBlock> _huge = [];
    private readonly List<UffdHandle> _mirrorHandles = [];
    private readonly TaskCompletionSource<CompletionReport> _completion = new(TaskCreationOptions.RunContinuationsAsynchronously);

    private int _state;
    private PostcopyState _beforePause;
    private UffdHandle? _uffd;
    private FaultReader? _reader;
    private long _listenAt;
    private bool _closed;

    /// <summary>Makes a destination in state none.</summary>
    /// <param name="options">How it works; null for the defaults.</param>
    /// <exception cref="ArgumentOutOfRangeException">An option is out of its range.</exception>
    public PostcopyDestination(PostcopyOptions? options = null)
    {
        _options = options ?? new PostcopyOptions();
        _options.Validate();
        _logger = (_options.LoggerFactory ?? NullLoggerFactory.Instance).CreateLogger<PostcopyDestination>();
        _gate = _options.FollowMemoryEvents ? new LayoutGate() : null;
        Blocktime = _options.Blocktime is { } blocktime ? new BlocktimeTracker(blocktime) : null;
        Blocks = new RamBlockRegistry();
        Placer = new PostcopyPlacer(_options.Placer, Blocktime) { Gate = _gate, Observer = this };
        Rate = new PlacementRate(_options.TimeProvider);
        _series = _options.Blocktime is { TimelineCapacity: > 0 } ? new PlacementSeries(TimeSpan.FromMilliseconds(SeriesTick)) : null;
        _alarms = new StallWatch(Blocks, _options.TimeProvider, _options.StallAlarm);
    }

    /// <summary>The guest's RAM; filled by the host before <see cref="Listen"/>.</summary>
    public RamBlockRegistry Blocks { get; }

    /// <summary>Puts pages into the guest: used by the transport, from any number of threads.</summary>
    public PostcopyPlacer Placer { get; }

    /// <summary>The blocktime tracker: vCPUs are added to it by thread id; null when blocktime is off.</summary>
    public BlocktimeTracker? Blocktime { get; }

    /// <summary>Where it stands.</summary>
    public PostcopyState State => (PostcopyState)Volatile.Read(ref _state);

    /// <summary>What was granted at <see cref="Advise"/>; null before.</summary>
    public UffdGrant? Grant { get; private set; }

    /// <summary>The descriptor, from <see cref="Advise"/> on; null before. Owned by the destination, and closed at the end.</summary>
    public UffdHandle? Uffd => _uffd;

    /// <summary>What the fault thread did; zeros before <see cref="Listen"/>.</summary>
    public FaultStatistics Faults => _reader?.Statistics ?? new FaultStatistics();

    /// <summary>The name in its metrics.</summary>
    internal string? Name => _options.Name;

    /// <summary>
    /// Bytes placed over time, for <see cref="BlocktimeTimeline"/>: from <see cref="Listen"/> on every 20 ms, in longer steps
    /// when the migration lasts longer than 40 s, so that there are never more than 2048. Empty without blocktime, or with a
    /// <see cref="BlocktimeOptions.TimelineCapacity"/> of 0.
    /// </summary>
    public IReadOnlyList<PlacementSample> PlacementSamples => _series?.ToList() ?? [];

    /// <summary>How fast pages come.</summary>
    internal PlacementRate Rate { get; }

    /// <summary>Ends with the report, or with why it failed.</summary>
    public Task<CompletionReport> Completion => _completion.Task;

    /// <summary>
    /// The source may switch to postcopy: opens and negotiates the userfaultfd now, while the source can still go on
    /// alone if that fails.
    /// </summary>
    /// <exception cref="PostcopyStateException">The state is not none.</exception>
    /// <exception cref="UffdException">No userfaultfd, or not one that serves.</exception>
    public void Advise()
    {
        lock (_steps)
        {
            RequireLocked(nameof(Advise), PostcopyState.None);
            UffdHandle uffd = UffdHandle.Open(_options.Open);
            try
            {
                UffdFeatures events = _options.FollowMemoryEvents
                    ? UffdFeatures.EventRemove | UffdFeatures.EventUnmap | UffdFeatures.EventRemap
                    : UffdFeatures.None;
                UffdFeatures optional = UffdFeatures.MissingShmem | UffdFeatures.MissingHugetlbfs | UffdFeatures.MinorShmem |
                    UffdFeatures.MinorHugetlbfs | UffdFeatures.Poison | UffdFeatures.Move |
                    (Blocktime is null ? UffdFeatures.None : UffdFeatures.ThreadId);
                Grant = uffd.Negotiate(events, optional);
            }
            catch
            {
                uffd.Dispose();
                throw;
            }

            _uffd = uffd;
            FaultPathWarmUp.RunOnce(_options.Open, Placer.Stretches);
            if (uffd.UserModeOnly)
            {
                Log.UserModeOnly(_logger);
            }

            if (Blocktime is not null && !Grant.Has(UffdFeatures.ThreadId))
            {
                Log.NoThreadIds(_logger);
            }

            EnterLocked(PostcopyState.Advise);
        }
    }

    /// <summary>Pages that are stale here and will come again: they are thrown away.</summary>
    /// <param name="block">A block of <see cref="Blocks"/>.</param>
    /// <param name="ranges">Ranges inside it, multiples of its page size.</param>
    /// <exception cref="PostcopyStateException">The state is neither advise nor discard.</exception>
    /// <exception cref="RamBlockException">A range is not acceptable; nothing was discarded.</exception>
    public void Discard(RamBlock block, params ReadOnlySpan<PageRange> ranges)
    {
        ArgumentNullException.ThrowIfNull(block);
        lock (_steps)
        {
            RequireLocked(nameof(Discard), PostcopyState.Advise, PostcopyState.Discard);
            block.Discard(ranges);
            if (State != PostcopyState.Discard)
            {
                EnterLocked(PostcopyState.Discard);
            }
        }
    }

    /// <summary>
    /// Registers the memory and starts serving faults. Every page that is not received is really missing from here
    /// on: what somebody read or wrote there before is thrown away.
    /// </summary>
    /// <param name="requester">Asks the source for pages; used until the next <see cref="Pause"/>.</param>
    /// <exception cref="PostcopyStateException">The state is neither advise nor discard.</exception>
    /// <exception cref="UffdException">A block cannot be registered; none is then.</exception>
    /// <exception cref="RamBlockException">A block's page size is not its memory's.</exception>
    /// <exception cref="InvalidOperationException">There is no RAM block.</exception>
    public void Listen(IPageRequester requester)
    {
        ArgumentNullException.ThrowIfNull(requester);
        lock (_steps)
        {
            RequireLocked(nameof(Listen), PostcopyState.Advise, PostcopyState.Discard);
            if (Blocks.Blocks.Count == 0)
            {
                throw new InvalidOperationException("There is no RAM block; add the guest's memory to Blocks before Listen.");
            }

            Blocks.Freeze();
            FaultReader reader;
            try
            {
                PrepareMemoryLocked();
                reader = new(_options.FaultReader, Placer, Blocktime, Blocks, _gate, this);
                try
                {
                    RegisterLocked();
                }
                catch
                {
                    reader.Dispose();
                    throw;
                }
            }
            catch
            {
                Blocks.Thaw();
                throw;
            }

            reader.AddSource(new FaultSource(_uffd!, _uffd!.Descriptor, Blocks, isPrimary: true));
            foreach (FaultSource mirror in _mirrorSources)
            {
                reader.AddSource(mirror);
            }

            reader.SetRequester(requester);
            _reader = reader;
            _stuckFaults = new StuckFaultWatch(reader, Blocks, _options.TimeProvider, _options.StuckFaultCheck, ReportStuck);
            _listenAt = _options.TimeProvider.GetTimestamp();
            NoteProgress(last: false);
            reader.Start();
            StartControlLocked();
            PostcopyMetrics.Of(_options.Meter).Attach(this);
            EnterLocked(PostcopyState.Listen);
        }
    }

    /// <summary>The point of no return: the guest is about to run here, and the source must never resume it.</summary>
    /// <exception cref="PostcopyStateException">The state is not listen.</exception>
    public void Run()
    {
        lock (_steps)
        {
            RequireLocked(nameof(Run), PostcopyState.Listen);
            EnterLocked(PostcopyState.Running);
        }
    }

    /// <summary>The link is down: requests wait, the guest goes on with what it has.</summary>
    /// <param name="why">For the log.</param>
    /// <exception cref="PostcopyStateException">The state is neither listen nor running.</exception>
    public void Pause(string why)
    {
        lock (_steps)
        {
            RequireLocked(nameof(Pause), PostcopyState.Listen, PostcopyState.Running);
            _beforePause = State;
            _reader!.SetRequester(null);
            Blocktime?.SetLink(up: false, Blocktime.Now());
            Log.Paused(_logger, why);
            PostcopyEventSource.Log.Paused(Vm, why);
            EnterLocked(PostcopyState.Paused, why);
        }
    }

    /// <summary>A new link: everything that is open is asked for again.</summary>
    /// <param name="requester">Asks the source for pages from now on.</param>
    /// <exception cref="PostcopyStateException">The state is not paused.</exception>
    public void Resume(IPageRequester requester)
    {
        ArgumentNullException.ThrowIfNull(requester);
        lock (_steps)
        {
            RequireLocked(nameof(Resume), PostcopyState.Paused);
            Blocktime?.SetLink(up: true, Blocktime.Now());
            _reader!.SetRequester(requester);
            EnterLocked(_beforePause);
        }
    }

    private void EnterLocked(PostcopyState state, string? why = null)
    {
        PostcopyState before = State;
        Volatile.Write(ref _state, (int)state);
        Log.StateChanged(_logger, before, state);
        TraceStateLocked(before, state, why);
    }

    private void RequireLocked(string operation, params ReadOnlySpan<PostcopyState> allowed)
    {
        ObjectDisposedException.ThrowIf(_closed, this);
        PostcopyState state = State;
        if (!allowed.Contains(state))
        {
            throw new PostcopyStateException(operation, state, string.Join(" or ", allowed.ToArray()));
        }
    }
}
