using System.Diagnostics;
using System.Globalization;
using Postcopy.Uffd;
using Postcopy.Uffd.Qemu;

namespace Postcopy.Destination;

/// <summary>One migration, from the listening socket to the checked content.</summary>
internal sealed class DestinationRun : IAsyncDisposable
{
    private const int Success = 0;
    private const int Failure = 1;
    private const int Interrupted = 130;

    // With recovery switched on a stalled connection is given up for a new one.
    private static readonly TimeSpan s_stall = TimeSpan.FromSeconds(30);

    private readonly DestinationOptions _options;
    private readonly Output _output;
    private readonly PostcopyDestination _destination;
    private readonly QemuIncoming _incoming;
    private readonly SeededContent? _content;
    private VcpuThreads? _vcpus;
    private SourceProcess? _source;
    private bool _drawn;

    private DestinationRun(DestinationOptions options, Output output)
    {
        _options = options;
        _output = output;
        _content = options.Listen is null ? new SeededContent(options.Seed) : null;
        _destination = new PostcopyDestination(new PostcopyOptions
        {
            // The threads here touch memory in user mode, so a descriptor for that is enough; a KVM guest needs more.
            Open = new UffdOpenOptions { AllowUserModeOnly = true },
            Blocktime = new BlocktimeOptions { TimelineCapacity = options.TimelineFile is null ? 0 : TimelineFile.Capacity },
            OnStall = alarm => output.Warn(alarm.ToString()),
            LoggerFactory = output.Problem,
        });
        _incoming = new QemuIncoming(_destination, new QemuIncomingOptions
        {
            CreateBlock = CreateBlock,
            OnPackage = PackageAsync,
            OnRunning = () => _vcpus?.Start(),
            StallTimeout = options.RecoverTimeout > TimeSpan.Zero && options.Timeout > s_stall ? s_stall : options.Timeout,
            Preempt = options.Preempt && options.Listen is not null,
            RecoverTimeout = options.RecoverTimeout,
        });
    }

    internal static async Task<int> RunAsync(DestinationOptions options, CancellationToken cancellation)
    {
        Output output = new(options);
        try
        {
            await using DestinationRun run = new(options, output);
            return await run.ReceiveAsync(cancellation);
        }
        catch (OperationCanceledException) when (cancellation.IsCancellationRequested)
        {
            output.Error("interrupted");
            return Interrupted;
        }
        catch (Exception e) when (e is UffdException or GuestMemoryException or RamBlockException or QemuIncomingException or MigrationStreamException
            or PostcopyFailedException or PostcopyIncompleteException or IOException or System.Net.Sockets.SocketException or TimeoutException or UnauthorizedAccessException or System.Security.Cryptography.CryptographicException)
        {
            output.Error(e.Message);
            return Failure;
        }
    }

    public async ValueTask DisposeAsync()
    {
        // The connection first: the source sees its end and goes by itself.
        await _incoming.DisposeAsync();
        _source?.Dispose();

        if (!_drawn)
        {
            DrawIncomplete();
        }

        // Threads that wait for pages that never came stay frozen, and end with the process: nothing wrong was read.
        _vcpus?.RequestStop();
        await _destination.CloseAsync(MissingPagePolicy.KeepWaiting);
    }

    private async Task<int> ReceiveAsync(CancellationToken cancellation)
    {
        _source = _options.Listen is null ? SourceProcess.Prepare() : null;
        Endpoint endpoint = _options.Listen ?? _source!.Endpoint;
        using MigrationListener listener = MigrationListener.Bind(endpoint.Address, new MigrationListenerOptions { Tls = _options.Tls?.Load() });
        _source?.Start(_options);
        _output.Info(_source is null
            ? $"waiting for a source on {endpoint}"
            : $"embedded source: {Quantity.Bytes(_options.MemoryBytes)}, seed {_options.Seed}, background stream " +
              (_options.Bandwidth == 0 ? "without limit" : $"{Quantity.Bytes(_options.Bandwidth)}/s"));

        using CancellationTokenSource stop = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        stop.CancelAfter(_options.Timeout);
        CompletionReport report;
        VcpuOutcome touched;
        using (GcPressure? pressure = _options.GcPressure ? new GcPressure() : null)
        {
            Task<CompletionReport> receiving = _incoming.RunAsync(listener.AcceptAsync, stop.Token);
            await _output.FollowAsync(receiving, _destination, _incoming);
            report = await WithTimeoutNamed(receiving, cancellation);
            touched = JoinVcpus();
            if (pressure is not null)
            {
                _output.Info($"meanwhile {pressure.Collections} garbage collections were forced");
            }
        }

        return await FinishAsync(report, touched, cancellation);
    }

    private async Task<CompletionReport> WithTimeoutNamed(Task<CompletionReport> receiving, CancellationToken cancellation)
    {
        try
        {
            return await receiving;
        }
        catch (OperationCanceledException) when (!cancellation.IsCancellationRequested)
        {
            string phase = _destination.State == PostcopyState.None ? "no source came" : _destination.DescribeMissing();
            throw new TimeoutException($"--timeout: after {_options.Timeout.TotalSeconds:0} s {phase}.");
        }
    }

    private VcpuOutcome JoinVcpus()
    {
        if (_vcpus is null)
        {
            return default;
        }

        return _vcpus.Join(_options.Timeout)
            ? new VcpuOutcome(_vcpus.Touches, _vcpus.WrongTouches)
            : throw new TimeoutException("A touching thread did not end although every page is there.");
    }

    private async Task<int> FinishAsync(CompletionReport report, VcpuOutcome touched, CancellationToken cancellation)
    {
        bool right = touched.Wrong == 0;
        IReadOnlyList<RamBlock> blocks = _destination.Blocks.Blocks;
        _output.Summary(report, _incoming, touched);
        if (_content is not null)
        {
            (long pages, long wrong, string? first) = ContentCheck.Compare(blocks, _content);
            right &= wrong == 0;
            _output.Info(wrong == 0
                ? $"content: all {pages} pages are right"
                : $"content: {wrong} of {pages} pages are WRONG, the first at {first}");
        }

        if (_options.HashFile is { } hashFile)
        {
            await File.WriteAllLinesAsync(hashFile, ContentCheck.HashLines(blocks), cancellation);
        }

        await _output.ReportAsync(report, _incoming, _vcpus, cancellation);
        Draw(report.Blocktime!, report.PlacementSamples);
        if (_source is not null && await _source.WaitAsync(cancellation) is not 0)
        {
            _output.Error("the embedded source did not end as it should");
            right = false;
        }

        return right ? Success : Failure;
    }

    private void Draw(BlocktimeReport report, IReadOnlyList<PlacementSample> samples)
    {
        _drawn = true;
        if (_options.TimelineFile is not { } path)
        {
            return;
        }

        string title = string.Create(CultureInfo.InvariantCulture, $"Postcopy of {Quantity.Bytes(_destination.Blocks.TotalLength)}, {report.Vcpus.Count} vCPUs");
        TimelineFile.Write(path, new BlocktimeTimeline(report, samples, title));
        _output.Info($"timeline: {path}");
    }

    // What went wrong is most worth a look; but it must not hide behind a disk that is full.
    private void DrawIncomplete()
    {
        if (_destination.State == PostcopyState.None)
        {
            return;
        }

        try
        {
            Draw(_destination.Blocktime!.Snapshot(), _destination.PlacementSamples);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            _output.Warn(e.Message);
        }
    }

    private RamBlockSpec CreateBlock(StreamRamBlock wanted)
    {
        if (wanted.Index == 0)
        {
            // While the source still has everything: beyond a cgroup's limit no error would come, only a kill.
            MemoryPlanReport plan = MemoryPlan.Check([.. _incoming.SourceBlocks.Select(b =>
                new MemoryPlanBlock(KindOf(b), b.Length) { PageSize = new PageSize(b.PageSize) })]);
            if (!plan.IsSufficient)
            {
                throw new IOException($"this host has not enough for the guest.{Environment.NewLine}{plan}");
            }
        }

        return new RamBlockSpec
        {
            Name = wanted.Name,
            Memory = GuestMemory.Allocate(new GuestMemoryOptions
            {
                Length = wanted.Length,
                Kind = KindOf(wanted),
                PageSize = new PageSize(wanted.PageSize),
                Name = wanted.Name,
            }),
        };
    }

    /// <summary>Huge pages only where the source has them: page sizes must agree.</summary>
    private GuestMemoryKind KindOf(StreamRamBlock wanted) =>
        wanted.PageSize != PageSize.Host.Bytes ? GuestMemoryKind.Hugetlb
        : _options.MemoryKind == GuestMemoryKind.Hugetlb ? GuestMemoryKind.Anonymous
        : _options.MemoryKind;

    private async ValueTask PackageAsync(DevicePackage package, CancellationToken cancellation)
    {
        if (_options.PackageFile is { } path)
        {
            await File.WriteAllBytesAsync(path, package.Bytes, cancellation);
        }

        if (_destination.Uffd!.UserModeOnly)
        {
            _output.Warn($"userfaultfd was opened for faults of user mode only ({_destination.Uffd.OpenedBy}): enough for the threads of this sample, wrong for a KVM guest");
        }

        _output.Info($"switched to postcopy: {Quantity.Bytes(_destination.Blocks.MissingBytes)} of {Quantity.Bytes(_destination.Blocks.TotalLength)} still to come");
        if (_options.Vcpus > 0)
        {
            _vcpus = new VcpuThreads(_destination, _options.Vcpus, _options.Seed, _content);
        }
    }
}
