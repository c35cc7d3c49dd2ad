namespace Postcopy.Uffd.Qemu;

/// <content>What the end of a link means, and the way to the next one.</content>
public sealed partial class QemuIncoming
{
    // A received bitmap crosses the wire in one message; this is the piece that is exported at a time.
    private const int BitmapPiece = 1 << 20;

    private void RunMain(IncomingLink link, QemuStreamReader reader, StreamRecordKind first)
    {
        Exception? ended = null;
        try
        {
            ReadMain(link, reader, first);
        }
        catch (Exception e)
        {
            ended = e;
        }

        MainEnded(link, ended);
    }

    private void MainEnded(IncomingLink link, Exception? ended)
    {
        TellFailure(link.Writer, ended);
        Exception? final = null;
        lock (_lock)
        {
            // With the lock: either the guest runs and this pauses, or this fails and the guest never runs here.
            link.Ended = true;
            _bytes += link.Main.ReceivedBytes;
            link.Lose(ended);
            _earlierRequests += link.Writer.Requests;
            if (ended is not null && !_over && (final = Unrecoverable(ended)) is null)
            {
                AwaitRecoveryLocked(link);
            }

            _failing |= final is not null;
        }

        link.Writer.Dispose();
        if (final is not null)
        {
            Fail(final);
        }

        lock (_lock)
        {
            link.Leave(link.Main);
        }
    }

    /// <summary>A malformed stream before the switch: the source is to know that it is its turn again.</summary>
    private void TellFailure(ReturnPathWriter writer, Exception? ended)
    {
        if (ended is null or MigrationConnectionException || (_pointOfNoReturn && ended is MigrationStreamException))
        {
            return;
        }

        try
        {
            writer.Shut(1);
            _ = writer.Flush(s_lastWord);
        }
        catch (MigrationConnectionException)
        {
            // It cannot hear it any more.
        }
    }

    /// <summary>
    /// After the point of no return a lost or garbled connection pauses the migration: the source keeps what it has not
    /// confirmed. After EOF there is nothing to resume (qemu-wire.md 5.1).
    /// </summary>
    /// <returns>Why it is over for good; null when it can be recovered.</returns>
    private Exception? Unrecoverable(Exception ended)
    {
        if (ended is not (MigrationConnectionException or MigrationStreamException))
        {
            return ended;
        }

        if (!_pointOfNoReturn)
        {
            string phase = _stream.Phase == StreamPhase.Running
                ? "after the package, before the point of no return"
                : $"before the switch, in phase {_stream.Phase}";
            return ended is MigrationStreamException
                ? new QemuIncomingException($"{ended.Message} {WhoHasTheGuest(ended)}", true, ended)
                : new QemuIncomingException($"The connection was lost {phase}: {ended.Message} {WhoHasTheGuest(ended)}", true, ended);
        }

        string missing = _destination.DescribeMissing();
        if (_mainEnded && !_options.RecoverAfterEnd)
        {
            return new QemuIncomingException(
                $"The connection was lost after the end of the stream, which cannot be resumed: {missing}. {ended.Message}", false, ended);
        }

        return _options.RecoverTimeout <= TimeSpan.Zero
            ? new QemuIncomingException($"The connection was lost in postcopy: {missing}; no recovery was asked for (RecoverTimeout). {ended.Message}", false, ended)
            : _acceptFailed is { } deaf
                ? new QemuIncomingException($"The connection was lost in postcopy: {missing}. {ended.Message} No other can come: {deaf.Message}", false, ended)
                : null;
    }

    /// <summary>A source before 10.2 counts its guest as gone when the package is out, all of which has not come here.</summary>
    private static string WhoHasTheGuest(Exception ended) =>
        ended is MigrationConnectionException { Section: QemuStreamReader.PackagedName }
            ? "The guest did not come here. A source of 10.2 or later lets it go on. An older one stays postcopy-paused and cannot."
            : "The guest goes on at the source.";

    private void AwaitRecoveryLocked(IncomingLink link)
    {
        Exception why = link.LostBecause!;
        _lost++;

        // Behind the end only with RecoverAfterEnd: what comes next has an end of its own.
        _mainEnded = false;
        _stream.Phase = StreamPhase.Running;
        if (!link.HadUrgent && _connections.Find(c => !c.HasRole && !c.IsOld) is { } silent)
        {
            // The urgent channel of the lost link, on which nothing was asked yet: the first that came. What came after it,
            // or beside one that had shown itself, may be the next link's: a source can resume before its loss is seen here.
            silent.IsOld = true;
        }

        // Paused still when the link was lost in its handshake.
        if (_destination.State is PostcopyState.Listen or PostcopyState.Running)
        {
            _destination.Pause(why.Message);
        }

        StopRecoverTimerLocked();
        _recoverTimer = _options.TimeProvider.CreateTimer(_ => RecoverTimedOut(why), null, _options.RecoverTimeout, Timeout.InfiniteTimeSpan);
    }

    private void StopRecoverTimerLocked()
    {
        _recoverTimer?.Dispose();
        _recoverTimer = null;
    }

    private void RecoverTimedOut(Exception why)
    {
        lock (_lock)
        {
            if (!_link!.Ended)
            {
                return;
            }
        }

        Fail(new QemuIncomingException(
            $"No new connection came within {_options.RecoverTimeout.TotalSeconds:0.#} s after one was lost ({why.Message}): {_destination.DescribeMissing()}.", false, why));
    }

    /// <summary>
    /// The urgent channel alone is gone, and pages on their way there with it: the source counts them as sent. Only the
    /// bitmaps of a resume can tell it, so the main connection goes too. In a resume's handshake not before RESUME_ACK: cut
    /// there, a 7.2 source is wedged (qemu-wire.md 5.1).
    /// </summary>
    private void UrgentLostLocked(IncomingLink link, Exception why)
    {
        link.UrgentLost ??= why;
        if (_over || !_pointOfNoReturn || !link.Active || link.Ended || link != _link || _destination.Blocks.MissingBytes == 0)
        {
            return;
        }

        // After EOF the main thread waits for these pages: closed, it says that they will not come.
        link.Lose(new MigrationConnectionException(ConnectionLossReason.ClosedByPeer, $"The urgent channel was lost: {why.Message}"));
    }

    /// <summary>Watches the link from the point of no return on; before, the source may be silent for as long as it likes.</summary>
    private void StartStallWatchLocked()
    {
        if (_options.StallTimeout > TimeSpan.Zero)
        {
            TimeSpan look = _options.StallTimeout / 4;
            _stallTimer ??= _options.TimeProvider.CreateTimer(_ => LookForStall(), null, look, look);
        }
    }

    private void LookForStall()
    {
        lock (_lock)
        {
            if (_over || _mainEnded || _link is not { Ended: false } link)
            {
                return;
            }

            if (link.StandsStill(_options.TimeProvider, _options.StallTimeout))
            {
                link.Lose(new MigrationConnectionException(
                    ConnectionLossReason.TimedOut, $"Nothing was received for {_options.StallTimeout.TotalSeconds:0.###} s (StallTimeout)."));
            }
            else if (link.Active && (_options.Preempt || link.HasUrgent)
                && link.UrgentStandsStill(_options.TimeProvider, _options.StallTimeout, _destination.Blocks.Blocks))
            {
                link.Lose(new MigrationConnectionException(
                    ConnectionLossReason.TimedOut,
                    $"Nothing was received on the urgent channel for {_options.StallTimeout.TotalSeconds:0.###} s while pages were asked for (StallTimeout)."));
            }
            else if (link.Writer.IsBroken)
            {
                link.Lose(new MigrationConnectionException(ConnectionLossReason.TransportError, "The source takes no requests any more."));
            }
        }
    }

    /// <summary>Nothing is staged: the threads of the lost link are gone (hazard H44), and a page of no link is not taken.</summary>
    private static void SendReceivedBitmap(RamBlock block, StreamRamBlock streamBlock, ReturnPathWriter writer)
    {
        int factor = (int)(block.PageSize.Bytes / TargetPage);
        byte[] bitmap = new byte[block.Received.WireSize(factor)];
        for (int at = 0; at < bitmap.Length; at += BitmapPiece)
        {
            block.Received.Export(at, bitmap.AsSpan(at, Math.Min(BitmapPiece, bitmap.Length - at)), factor);
        }

        writer.SendReceivedBitmap(streamBlock, bitmap);
    }

    private void Resume(IncomingLink link)
    {
        lock (_lock)
        {
            link.Active = true;
        }

        // The source must hear the acknowledgement before the first request.
        link.Writer.ResumeAck();
        _ = link.Writer.Flush(s_lastWord);
        lock (_lock)
        {
            _destination.Resume(new PageRequester(link.Writer, _streamBlocks));
            RunGuestLocked();
            if (link.UrgentLost is { } why)
            {
                UrgentLostLocked(link, why);
            }
        }
    }
}
