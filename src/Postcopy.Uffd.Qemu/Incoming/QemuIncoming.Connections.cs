using System.Diagnostics.CodeAnalysis;

namespace Postcopy.Uffd.Qemu;

/// <content>One connection: which role it has, and what its end means.</content>
public sealed partial class QemuIncoming
{
    private long _bytes;
    private long _pages;
    private long _zeroPages;
    private long _precopyPages;
    private long _urgentPages;
    private long _earlierRequests;
    private long _lost;
    private bool _confirmed;

    private void Serve(MigrationChannel channel)
    {
        try
        {
            using QemuStreamReader reader = new(channel, _stream, _options.Stream);
            switch (reader.Detect())
            {
                case StreamKind.Main when TryBecomeMain(channel, recovery: false):
                    RunMain(channel, reader);
                    break;
                case StreamKind.Recovery when TryBecomeMain(channel, recovery: true):
                    RunMain(channel, reader);
                    break;
                case StreamKind.Urgent when _stream.Phase is StreamPhase.Running or StreamPhase.End:
                    RunUrgent(reader);
                    break;
            }
        }
        catch (Exception e) when (e is MigrationStreamException or MigrationConnectionException)
        {
            // A stranger, or a silent connection that ended: it had no role, so nothing is lost.
        }
        catch (Exception e)
        {
            Fail(e);
        }
        finally
        {
            lock (_lock)
            {
                _ = _connections.Remove(channel);
            }

            channel.Dispose();
        }
    }

    private bool TryBecomeMain(MigrationChannel channel, bool recovery)
    {
        lock (_lock)
        {
            if (_over || _main is not null || (recovery != (_destination.State == PostcopyState.Paused)))
            {
                return false;
            }

            _main = channel;
            _lostBecause = null;
            return true;
        }
    }

    private void RunMain(MigrationChannel channel, QemuStreamReader reader)
    {
        ReturnPathWriter writer = new(channel);
        lock (_lock)
        {
            _writer = writer;
        }

        Exception? ended = null;
        try
        {
            ReadMain(channel, reader, writer);
        }
        catch (Exception e)
        {
            ended = e;
        }

        Count(reader, ref _bytes);
        MainEnded(writer, ended);
    }

    private void MainEnded(ReturnPathWriter writer, Exception? ended)
    {
        if (ended is not null and not MigrationConnectionException)
        {
            TellFailure(writer, ended);
        }

        lock (_lock)
        {
            _main = null;
            _writer = null;
            _ = Interlocked.Add(ref _earlierRequests, writer.Requests);
        }

        writer.Dispose();
        if (ended is null || _over)
        {
            return;
        }

        if (MayRecover(ended, out Exception? final))
        {
            AwaitRecovery(ended);
        }
        else
        {
            Fail(final);
        }
    }

    /// <summary>A malformed stream before the switch: the source is to know that it is its turn again.</summary>
    private void TellFailure(ReturnPathWriter writer, Exception ended)
    {
        if (_pointOfNoReturn && ended is MigrationStreamException)
        {
            return;
        }

        try
        {
            writer.Shut(1);
            _ = writer.Flush(TimeSpan.FromSeconds(1));
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
    private bool MayRecover(Exception ended, [NotNullWhen(false)] out Exception? final)
    {
        final = null;
        if (ended is not (MigrationConnectionException or MigrationStreamException))
        {
            final = ended;
            return false;
        }

        string missing = _destination.DescribeMissing();
        if (!_pointOfNoReturn)
        {
            final = ended is MigrationStreamException
                ? ended
                : new QemuIncomingException($"The source is gone before the switch (phase {_stream.Phase}): {ended.Message} The guest goes on there.", true, ended);
        }
        else if (_mainEnded)
        {
            final = new QemuIncomingException(
                $"The connection was lost after the end of the stream, which cannot be resumed: {missing}. {ended.Message}", false, ended);
        }
        else if (_options.RecoverTimeout <= TimeSpan.Zero)
        {
            final = new QemuIncomingException($"The connection was lost in postcopy: {missing}. {ended.Message}", false, ended);
        }

        return final is null;
    }

    private void AwaitRecovery(Exception ended)
    {
        _ = Interlocked.Increment(ref _lost);
        Exception why = _lostBecause ?? ended;
        _destination.Pause(why.Message);
        lock (_lock)
        {
            // The urgent channel belongs to the connection that is gone.
            AbortConnectionsLocked();
            _recoverTimer?.Dispose();
            _recoverTimer = _over ? null : _options.TimeProvider.CreateTimer(_ => RecoverTimedOut(why), null, _options.RecoverTimeout, Timeout.InfiniteTimeSpan);
        }
    }

    private void RecoverTimedOut(Exception why)
    {
        if (_destination.State == PostcopyState.Paused)
        {
            Fail(new QemuIncomingException(
                $"No new connection came within {_options.RecoverTimeout.TotalSeconds:0.#} s after one was lost ({why.Message}): {_destination.DescribeMissing()}.", false, why));
        }
    }

    private void RunUrgent(QemuStreamReader reader)
    {
        using ChannelPlacer placer = new(_destination.Placer);
        try
        {
            StreamRecordKind kind = reader.ReadNext();
            while (kind != StreamRecordKind.EndOfStream)
            {
                // One page is never held back for a batch: what is here already goes in with it, nothing is waited for.
                // A batch that was full leaves its next page, read already, for another round.
                kind = PlaceBatch(reader, placer, kind, ref _urgentPages);
                if (kind == StreamRecordKind.None)
                {
                    kind = reader.ReadNext();
                }
            }
        }
        finally
        {
            Count(reader, ref _bytes);
        }
    }

    private static void Count(QemuStreamReader reader, ref long bytes) => _ = Interlocked.Add(ref bytes, reader.StreamOffset);
}
