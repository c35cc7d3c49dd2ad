namespace Postcopy.Uffd.Qemu;

/// <content>One connection: which role it has.</content>
public sealed partial class QemuIncoming
{

    // Of connections that are gone; the lock guards it.
    private long _bytes;
    private long _pages;
    private long _zeroPages;
    private long _precopyPages;
    private long _postcopyPages;
    private long _urgentPages;
    private long _earlierRequests;
    private long _lost;
    private bool _confirmed;
    private MigrationChannel? _multifd;

    /// <summary>An accepted connection; <c>_lock</c> guards what changes.</summary>
    private sealed class Connection(MigrationChannel channel, long number)
    {
        /// <summary>The order of acceptance.</summary>
        internal long Number { get; } = number;

        internal MigrationChannel Channel { get; } = channel;

        /// <summary>It is a main or an urgent connection, not one that has said nothing yet.</summary>
        internal bool HasRole { get; set; }

        /// <summary>It is on its way out to make room; its thread has not seen it yet.</summary>
        internal bool IsEvicted { get; set; }

        /// <summary>It came for a link that is gone: neither its pages nor its end belong to the next one.</summary>
        internal bool IsOld { get; set; }
    }

    private void Serve(Connection connection)
    {
        MigrationChannel channel = connection.Channel;
        QemuStreamReader? reader = null;
        try
        {
            reader = new QemuStreamReader(channel, _stream, _options.Stream);
            switch (reader.Detect())
            {
                case StreamKind.Main when TryBecomeMain(connection) is { } link:
                    RefuseMultifd();
                    RunMain(link, reader, StreamRecordKind.None);
                    break;
                case StreamKind.Recovery when reader.ReadNext() is var first && TryTakeOver(connection, first) is { } link:
                    RunMain(link, reader, first);
                    break;
                case StreamKind.Urgent when TryBecomeUrgent(connection) is { } link:
                    RunUrgent(link, connection, reader);
                    break;
            }
        }
        catch (MigrationConnectionException e) when (!connection.HasRole)
        {
            // A stranger, or an urgent channel that nothing was asked on yet.
            SilentEnded(connection, e);
        }
        catch (MigrationStreamException) when (!connection.HasRole)
        {
            // A stranger, or a source's multifd channel.
            if (reader!.IsMultifd)
            {
                lock (_lock)
                {
                    _multifd = channel;
                }

                RefuseMultifd();

                // Closed at once it could take the main connection along before that one has said what it is.
                _ = _stop.Token.WaitHandle.WaitOne(s_lastWord);
            }
        }
        catch (Exception e)
        {
            Fail(e);
        }
        finally
        {
            lock (_lock)
            {
                _ = _connections.Remove(connection);
            }

            reader?.Dispose();
            channel.Dispose();
        }
    }

    private IncomingLink? TryBecomeMain(Connection connection)
    {
        lock (_lock)
        {
            if (_over || _link is not null)
            {
                return null;
            }

            connection.HasRole = true;
            _began = _options.TimeProvider.GetTimestamp();
            return _link = new IncomingLink(connection.Channel, connection.Number);
        }
    }

    /// <summary>
    /// The pages of the precopy passes would come over channels of their own. Said as soon as the main connection and one
    /// of those are here, from the same host: 7.2 waits for ever for what it can neither send nor see fail.
    /// </summary>
    private void RefuseMultifd()
    {
        lock (_lock)
        {
            if (_multifd is null || _link is null || _stream.Phase >= StreamPhase.Running || !Equals(_multifd.PeerAddress, _link.Main.PeerAddress))
            {
                return;
            }
        }

        Fail(new QemuIncomingException(
            "The source sends pages over multifd channels, which are not taken: migrate_set_capability multifd off at the source, and migrate again.", sourceMayResume: true));
    }

    /// <summary>
    /// A new main connection asks for a bitmap: the source has given the old one up, whether this side knows it yet or
    /// not (migrate-pause, a half-open TCP connection). To refuse it would wedge a 7.2 source for ever (qemu-wire.md 0.6),
    /// so the old one goes, and the new one begins when its last page is placed.
    /// </summary>
    private IncomingLink? TryTakeOver(Connection connection, StreamRecordKind first)
    {
        while (first == StreamRecordKind.ReceivedBitmapRequest)
        {
            IncomingLink old;
            lock (_lock)
            {
                bool tooLate = _mainEnded && (!_options.RecoverAfterEnd || _destination.Blocks.MissingBytes == 0);
                if (_over || !_pointOfNoReturn || tooLate || _options.RecoverTimeout <= TimeSpan.Zero)
                {
                    return null;
                }

                old = _link!;
                if (old.Number > connection.Number)
                {
                    // The source has given this one up already: only its thread is late.
                    return null;
                }

                if (!old.Ended)
                {
                    old.Lose(new QemuIncomingException("The source has resumed over another connection.", sourceMayResume: false));
                }
            }

            try
            {
                old.Over.Wait(_stop.Token);
            }
            catch (OperationCanceledException)
            {
                return null;
            }

            lock (_lock)
            {
                if (_over || _destination.State != PostcopyState.Paused)
                {
                    return null;
                }

                // Otherwise another one was faster, and is old by now.
                if (_link == old)
                {
                    connection.HasRole = true;
                    StopRecoverTimerLocked();
                    MarkOldLocked(connection);
                    return _link = new IncomingLink(connection.Channel, connection.Number, new HostPageParts(_destination.Placer, old.Parts));
                }
            }
        }

        return null;
    }

    /// <summary>
    /// A source closes all that it had before it resumes. So what was accepted before the new main connection and is closed
    /// already, or has something to say before RESUME_ACK, was accepted late and is the lost link's; what is still open and
    /// silent may be the new urgent channel, which a lossy network let overtake the main one.
    /// </summary>
    private void MarkOldLocked(Connection main)
    {
        foreach (Connection connection in _connections)
        {
            connection.IsOld |= !connection.HasRole && connection.Number < main.Number && !connection.Channel.IsSilent;
        }
    }

    /// <summary>A page before RESUME_ACK belongs to a link that is gone; it comes again on the new one.</summary>
    private IncomingLink? TryBecomeUrgent(Connection connection)
    {
        lock (_lock)
        {
            if (_over || connection.IsOld || _link is not { Active: true, Ended: false } link || _stream.Phase is not (StreamPhase.Running or StreamPhase.End))
            {
                return null;
            }

            connection.HasRole = true;
            link.Join(connection.Channel);
            return link;
        }
    }

    /// <summary>
    /// A source that comes back must not find the door blocked by those who never said what they are. But one of them may be the
    /// urgent channel, silent until its first page. It comes from where the main connection comes from, so first goes the
    /// oldest from elsewhere or of a lost link; then, once the urgent channel has spoken, the oldest; and the newest else,
    /// because QEMU opens it close to the main connection or at the switch, and opens no second.
    /// </summary>
    private void MakeRoomLocked()
    {
        List<Connection> silent = _connections.FindAll(c => !c.HasRole && !c.IsEvicted);
        IncomingLink? link = _link is { Ended: false } ? _link : null;
        Connection? victim = link is null
            ? silent.FirstOrDefault()
            : silent.Find(c => c.IsOld || !Equals(c.Channel.PeerAddress, link.Main.PeerAddress))
                ?? (link.HasUrgent ? silent.FirstOrDefault() : silent.LastOrDefault());
        if (victim is not null)
        {
            victim.IsEvicted = true;
            victim.Channel.Abort();
        }
    }

    private void SilentEnded(Connection connection, MigrationConnectionException why)
    {
        lock (_lock)
        {
            if (_options.Preempt && !connection.IsOld && !connection.IsEvicted && why.StreamOffset == 0 && _link is { HadUrgent: false } link)
            {
                UrgentLostLocked(link, why);
            }
        }
    }

    private void RunUrgent(IncomingLink link, Connection connection, QemuStreamReader reader)
    {
        Exception? ended = null;
        try
        {
            // One that answers faults by whole stretches brings memory in order, too.
            bool whole = _destination.Placer.Stretches == StretchPlacement.WholeOnFault;
            using ChannelPlacer placer = new(_destination.Placer, BlockOf, link.Parts, stretches: whole, reader.MostPagesAtOnce);
            StreamRecordKind kind = reader.ReadNext();
            while (kind != StreamRecordKind.EndOfStream)
            {
                // One page is never held back for a batch: what is here already goes in with it, nothing is waited for.
                // A batch that was full leaves its next page, read already, for another round.
                kind = PlaceBatch(reader, placer, kind, ref _urgentPages);
                if (kind == StreamRecordKind.CorruptPage)
                {
                    LeaveOut(link, reader, placer);
                    kind = StreamRecordKind.None;
                }

                if (kind == StreamRecordKind.None)
                {
                    // As on the main channel.
                    if (placer.IsFilling && !connection.Channel.WaitForMore(StretchPatience))
                    {
                        placer.Flush();
                    }

                    kind = reader.ReadNext();
                }
            }
        }
        catch (Exception e) when (e is MigrationStreamException or MigrationConnectionException)
        {
            ended = e;
        }
        finally
        {
            lock (_lock)
            {
                _bytes += connection.Channel.ReceivedBytes;
                link.Leave(connection.Channel);
                if (ended is not null)
                {
                    UrgentLostLocked(link, ended);
                }
            }
        }
    }
}
