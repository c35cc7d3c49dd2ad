using System.Diagnostics.Metrics;
using System.Net;
using System.Net.Sockets;
using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Logging;
using Postcopy.Uffd.Qemu;

namespace Postcopy.Uffd.Hosting;

/// <summary>
/// One migration as a hosted service: listens when the host starts, receives, recovers, and keeps the memory until the host
/// is disposed. A destination receives once; an orchestrator starts another process for another try.
/// </summary>
public sealed class PostcopyReceiver : IHostedService, IAsyncDisposable
{
    private readonly PostcopyHostingOptions _options;
    private readonly IPostcopyGuest _guest;
    private readonly ILogger _logger;
    private readonly IHostApplicationLifetime? _lifetime;
    private readonly QemuIncoming _incoming;
    private readonly CancellationTokenSource _stop = new();
    private readonly TaskCompletionSource<CompletionReport> _completion = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private MigrationListener? _listener;
    private Task _receiving = Task.CompletedTask;
    private int _disposed;

    internal PostcopyReceiver(
        string name, PostcopyHostingOptions options, IPostcopyGuest guest, ILoggerFactory loggers, IMeterFactory? meters, IHostApplicationLifetime? lifetime)
    {
        Name = name;
        _options = options;
        _guest = guest;
        _lifetime = lifetime;
        _logger = loggers.CreateLogger<PostcopyReceiver>();
        Destination = new PostcopyDestination(new PostcopyOptions
        {
            Open = new UffdOpenOptions { AllowUserModeOnly = options.AllowUserModeOnly },
            Blocktime = options.Blocktime ? new BlocktimeOptions() : null,
            FollowMemoryEvents = options.FollowMemoryEvents,
            StallAlarm = options.StallAlarm,
            LoggerFactory = loggers,
            Meter = meters?.Create(new MeterOptions("Postcopy.Uffd")),
            Name = name.Length == 0 ? null : name,
        });
        _incoming = new QemuIncoming(Destination, new QemuIncomingOptions
        {
            CreateBlock = guest.CreateBlock,
            OnPackage = (package, cancellation) => guest.LoadDevicesAsync(package, Destination, cancellation),
            OnRunning = () => guest.Run(Destination),
            Preempt = options.Preempt,
            RecoverTimeout = options.RecoverTimeout,
            StallTimeout = options.StallTimeout,
        });
        // A failure is logged and told to the guest; nobody has to look at the task.
        _ = _completion.Task.ContinueWith(static t => t.Exception, CancellationToken.None, TaskContinuationOptions.OnlyOnFaulted, TaskScheduler.Default);
    }

    /// <summary>Which of the host's destinations this is; empty for the one without a name.</summary>
    public string Name { get; }

    /// <summary>The destination: its state, its blocks, its blocktime.</summary>
    public PostcopyDestination Destination { get; }

    /// <summary>What came over the wire.</summary>
    public QemuIncomingStatistics Statistics => _incoming.Statistics;

    /// <summary>Where it listens; with TCP port 0 the port that the system chose. Null before the host has started.</summary>
    public EndPoint? Address { get; private set; }

    /// <summary>Ends with the migration: its report, or why it failed; cancelled when the host stopped first.</summary>
    public Task<CompletionReport> Completion => _completion.Task;

    /// <summary>How old a stall must be to be alarming.</summary>
    internal TimeSpan StallAlarm => _options.StallAlarm;

    /// <summary>Prepares the guest and listens; called by the host.</summary>
    /// <param name="cancellationToken">The start is given up.</param>
    /// <exception cref="InvalidOperationException">The address cannot be listened on, or the TLS files cannot be used.</exception>
    public async Task StartAsync(CancellationToken cancellationToken)
    {
        await _guest.PrepareAsync(Destination, cancellationToken).ConfigureAwait(false);
        _listener = Listen();
        Address = _listener.LocalEndPoint;
        HostingLog.Listening(_logger, MigrationAddress.Format(Address));
        _receiving = ReceiveAsync(_listener);
    }

    /// <summary>Gives an unfinished migration up, and waits until nothing is received any more; called by the host.</summary>
    /// <param name="cancellationToken">The host's patience is over.</param>
    public async Task StopAsync(CancellationToken cancellationToken)
    {
        await _stop.CancelAsync().ConfigureAwait(false);
        await _receiving.WaitAsync(cancellationToken).ConfigureAwait(false);
    }

    /// <summary>
    /// Closes the destination. Whoever still waits for a page that never came stays frozen until the process ends
    /// (<see cref="MissingPagePolicy.KeepWaiting"/>): nothing wrong is read.
    /// </summary>
    public async ValueTask DisposeAsync()
    {
        if (Interlocked.Exchange(ref _disposed, 1) != 0)
        {
            return;
        }

        await _stop.CancelAsync().ConfigureAwait(false);
        await _receiving.ConfigureAwait(false);
        await _incoming.DisposeAsync().ConfigureAwait(false);
        await Destination.CloseAsync(MissingPagePolicy.KeepWaiting).ConfigureAwait(false);
        _listener?.Dispose();
        _stop.Dispose();
    }

    private MigrationListener Listen()
    {
        _ = PostcopyHostingOptionsValidator.TryParseMode(_options.SocketMode, out UnixFileMode mode);
        try
        {
            return MigrationListener.Bind(MigrationAddress.Parse(_options.Listen), new MigrationListenerOptions
            {
                SocketMode = mode,
                AllowedUsers = [.. _options.AllowedUsers],
                OnRefused = why => HostingLog.Refused(_logger, why),
                Tls = _options.TlsCertificate is { } certificate ? MigrationTls.FromPemFiles(certificate, _options.TlsKey!, _options.TlsAuthority) : null,
            });
        }
        catch (Exception e) when (e is SocketException or IOException or UnauthorizedAccessException or System.Security.Cryptography.CryptographicException)
        {
            throw new InvalidOperationException($"{nameof(PostcopyHostingOptions.Listen)} is '{_options.Listen}', and cannot be listened on: {e.Message}", e);
        }
    }

    private async Task ReceiveAsync(MigrationListener listener)
    {
        // The host's start goes on; exceptions from here are ours.
        await Task.Yield();
        try
        {
            CompletionReport report = await _incoming.RunAsync(listener.AcceptAsync, _stop.Token).ConfigureAwait(false);
            HostingLog.Received(_logger, report.TotalBytes, report.Duration);
            listener.Dispose();
            await _guest.CompletedAsync(report, _stop.Token).ConfigureAwait(false);
            _completion.SetResult(report);
        }
        catch (OperationCanceledException) when (_stop.IsCancellationRequested)
        {
            HostingLog.GivenUp(_logger, Destination.State);
            _completion.SetCanceled(_stop.Token);
        }
        catch (Exception e)
        {
            HostingLog.Failed(_logger, e);
            listener.Dispose();
            Tell(e);
            _completion.SetException(e);
            if (_options.StopApplicationOnFailure)
            {
                _lifetime?.StopApplication();
            }
        }
    }

    private void Tell(Exception why)
    {
        try
        {
            _guest.Failed(why);
        }
        catch (Exception e)
        {
            HostingLog.GuestFailed(_logger, e);
        }
    }
}
