namespace Postcopy.Uffd.Qemu;

/// <content>From the device package to the running guest, and the end.</content>
public sealed partial class QemuIncoming
{
    private static readonly TimeSpan s_farewell = TimeSpan.FromSeconds(10);
    private static readonly TimeSpan s_lastWord = TimeSpan.FromSeconds(1);

    private void BeginPostcopy(DevicePackage package, IncomingLink link, long bytesSoFar)
    {
        _destination.Listen(new PageRequester(link.Writer, _streamBlocks));
        AskForSpoiled(link);
        lock (_lock)
        {
            _precopyBytes = bytesSoFar;

            // Before 10.2 the source counts its guest as gone once the package is out.
            if (!package.HasPointOfNoReturn)
            {
                PassPointOfNoReturnLocked(link);
            }
        }

        _devices = Task.Run(() => LoadDevicesAsync(package, link));
    }

    private void PassPointOfNoReturnLocked(IncomingLink link)
    {
        _pointOfNoReturn = true;
        StartStallWatchLocked();
        if (link.UrgentLost is { } why)
        {
            UrgentLostLocked(link, why);
        }
    }

    private async Task LoadDevicesAsync(DevicePackage package, IncomingLink link)
    {
        try
        {
            if (_options.OnPackage is { } load)
            {
                await load(package, _stop.Token).ConfigureAwait(false);
            }

            AnswerPings(package, link.Writer);
        }
        catch (Exception e)
        {
            Fail(e is QemuIncomingException or OperationCanceledException
                ? e
                : new QemuIncomingException($"The device state was not accepted: {e.Message}", sourceMayResume: package.HasPointOfNoReturn, e));
            return;
        }

        lock (_lock)
        {
            // With 10.2 a lost connection before this point means that the guest goes on at the source.
            if (_over || (package.HasPointOfNoReturn && link.Ended))
            {
                return;
            }

            if (!_pointOfNoReturn)
            {
                PassPointOfNoReturnLocked(link);
            }

            _guestRuns = true;
            RunGuestLocked();
        }

        try
        {
            _options.OnRunning?.Invoke();
        }
        catch (Exception e)
        {
            Fail(new QemuIncomingException($"The guest could not be started: {e.Message}", sourceMayResume: false, e));
        }
    }

    /// <summary>
    /// The guest must not run before the source knows that it will: 10.2 lets it go on there after an error before that. An
    /// older source needs no answer, and a connection that is lost here is recovered like any other.
    /// </summary>
    private void AnswerPings(DevicePackage package, ReturnPathWriter writer)
    {
        try
        {
            foreach (uint ping in package.Pings)
            {
                writer.Pong(ping);
            }

            if (!writer.Flush(_options.StallTimeout) && package.HasPointOfNoReturn)
            {
                throw new QemuIncomingException(
                    $"The source has not taken the answer to the last PING of the package within {_options.StallTimeout.TotalSeconds:0.#} s (StallTimeout).", sourceMayResume: true);
            }
        }
        catch (MigrationConnectionException e) when (package.HasPointOfNoReturn)
        {
            throw new QemuIncomingException($"The connection was lost after the package, before the point of no return: {e.Message} The guest goes on at the source.", true, e);
        }
        catch (MigrationConnectionException)
        {
            // The main thread sees it too, and pauses.
        }
    }

    /// <summary>A paused destination enters "running" when it is resumed; the guest itself goes on with what it has.</summary>
    private void RunGuestLocked()
    {
        if (_guestRuns && _destination.State == PostcopyState.Listen)
        {
            _destination.Run();
        }
    }

    private void Complete(IncomingLink link)
    {
        lock (_lock)
        {
            _mainEnded = true;
            if (link.UrgentLost is { } why)
            {
                UrgentLostLocked(link, why);
            }
        }

        // Pages may still be on their way on the urgent channel.
        CompletionReport report;
        try
        {
            _devices.GetAwaiter().GetResult();
            report = CompleteDestination(link);
        }
        catch (OperationCanceledException e)
        {
            string late = $"The stream has ended, and after {_options.StallTimeout.TotalSeconds:0.#} s {_destination.DescribeMissing()}.";
            throw link.LostBecause ?? (_options.RecoverAfterEnd && _options.RecoverTimeout > TimeSpan.Zero
                ? new MigrationConnectionException(ConnectionLossReason.TimedOut, late, inner: e)
                : new QemuIncomingException(late, sourceMayResume: false, e));
        }

        // The guest is whole, whatever becomes of the connection from here on.
        try
        {
            link.Writer.Shut(0);
            _ = link.Writer.Flush(s_farewell);
            link.Main.StallTimeout = s_farewell;
            Volatile.Write(ref _confirmed, link.Main.Receive(new byte[1]) == 0);
        }
        catch (MigrationConnectionException e)
        {
            // A reset after SHUT is the source's way of closing with something unread.
            Volatile.Write(ref _confirmed, e.Reason is ConnectionLossReason.TransportError);
        }

        lock (_lock)
        {
            _ended = _options.TimeProvider.GetTimestamp();
            _ = _result.TrySetResult(report);
        }
    }

    private CompletionReport CompleteDestination(IncomingLink link)
    {
        try
        {
            using CancellationTokenSource patience = CancellationTokenSource.CreateLinkedTokenSource(_stop.Token, link.Gone.Token);
            patience.CancelAfter(_options.StallTimeout);
            return _destination.CompleteAsync(cancellationToken: patience.Token).GetAwaiter().GetResult();
        }
        catch (OperationCanceledException) when (!_stop.IsCancellationRequested && _destination.Blocks.MissingBytes == 0)
        {
            // The last page came together with the loss.
            return _destination.CompleteAsync(cancellationToken: _stop.Token).GetAwaiter().GetResult();
        }
    }
}
