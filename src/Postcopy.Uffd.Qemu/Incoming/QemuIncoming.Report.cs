namespace Postcopy.Uffd.Qemu;

/// <content>How it stands, in QEMU's words.</content>
public sealed partial class QemuIncoming
{
    // Timestamps of the options' clock, and bytes; the lock guards them.
    private long? _began;
    private long? _ended;
    private long? _precopyBytes;

    /// <summary>How the migration stands, or what it did. Any time, from any thread.</summary>
    /// <returns>The shape of QEMU's query-migrate and info migrate.</returns>
    public MigrationReport GetReport()
    {
        // Not under the lock: it reads the slots of all vCPUs.
        BlocktimeReport? blocktime = _stream.Phase >= StreamPhase.Running ? _destination.Blocktime?.Snapshot() : null;
        lock (_lock)
        {
            QemuIncomingStatistics wire = Statistics;
            return new MigrationReport
            {
                Status = StatusLocked(),
                Error = _result.Task.Exception?.InnerException?.Message ?? (_link is { Ended: true } link && !_mainEnded ? link.LostBecause?.Message : null),
                TotalTime = _began is { } began
                    ? _options.TimeProvider.GetElapsedTime(began, _ended ?? _options.TimeProvider.GetTimestamp())
                    : TimeSpan.Zero,
                TotalBytes = _destination.Blocks.TotalLength,
                RemainingBytes = _destination.Blocks.MissingBytes,
                TransferredBytes = wire.Bytes,
                PrecopyBytes = _precopyBytes ?? wire.Bytes,
                NormalPages = wire.Pages,
                ZeroPages = wire.ZeroPages,
                Requests = wire.Requests,
                Blocktime = blocktime,
            };
        }
    }

    private string StatusLocked()
    {
        if (_result.Task.IsCompleted)
        {
            return _result.Task.IsCompletedSuccessfully ? "completed"
                : _result.Task.Exception?.InnerException is OperationCanceledException ? "cancelled"
                : "failed";
        }

        return _link is not { } link ? "setup"
            : _stream.Phase < StreamPhase.Running ? "active"
            : !_pointOfNoReturn ? "postcopy-device"
            : link.Ended ? "postcopy-paused"
            : link.Active ? "postcopy-active"
            : "postcopy-recover";
    }

    /// <summary>Of the connections that are gone, and what has come so far on those that are there.</summary>
    private long Bytes
    {
        get
        {
            lock (_lock)
            {
                return _bytes + (_link is { Ended: false } link ? link.Main.ReceivedBytes : 0) + (_link?.UrgentBytes ?? 0);
            }
        }
    }
}
