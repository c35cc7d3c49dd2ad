namespace Postcopy.Uffd.Qemu;

/// <content>What the destination says, read by one thread per connection.</content>
public sealed partial class QemuSource
{
    /// <summary>More open requests than any number of vCPUs can have: a destination that goes beyond floods.</summary>
    private const int MaxQueuedRequests = 1 << 20;

    private readonly Queue<PageRange> _requestQueue = new();
    private readonly HashSet<int> _bitmapsReceived = [];
    private bool _firstPong;
    private bool _pointOfNoReturnPong;
    private bool _verifiedPong;
    private bool _resumeAcknowledged;
    private uint? _shut;

    private readonly record struct PageRange(int Block, long First, long End);

    private void ResetConnectionState()
    {
        _requestQueue.Clear();
        _bitmapsReceived.Clear();
        _resumeAcknowledged = false;
        _endSent = false;
    }

    private void ReadReturnPath(SourceConnection connection)
    {
        try
        {
            while (ApplyMessage(connection, connection.ReturnPath.ReadNext()))
            {
            }
        }
        catch (Exception e)
        {
            // Whatever it is, a fault of the memory's owner included: the source's thread reports it.
            lock (_lock)
            {
                connection.Failure ??= e;
                Monitor.PulseAll(_lock);
            }

            connection.Abort();
        }
    }

    /// <summary>Applies a message; false after the last one.</summary>
    private bool ApplyMessage(SourceConnection connection, ReturnPathMessageType type)
    {
        ReturnPathReader message = connection.ReturnPath;
        if (type is ReturnPathMessageType.ReqPages or ReturnPathMessageType.ReqPagesId)
        {
            Interlocked.Increment(ref _requests);
            ApplyRequest(connection, message.Block!, message.Start, message.Length);
            return true;
        }

        if (type == ReturnPathMessageType.ResendPagesId)
        {
            ApplyResend(message.Block!, message.Start, message.Length);
            ApplyRequest(connection, message.Block!, message.Start, message.Length);
            return true;
        }

        lock (_lock)
        {
            switch (type)
            {
                case ReturnPathMessageType.Shut:
                    _shut = message.Value;
                    break;
                case ReturnPathMessageType.Pong:
                    _firstPong |= message.Value == QemuWire.PingReturnPathOpen;
                    _verifiedPong |= message.Value == QemuWire.PingPagesVerified;
                    if (message.Value == QemuWire.PingPointOfNoReturn)
                    {
                        _pointOfNoReturnPong = true;
                        _state = _state == QemuSourceState.PostcopyDevice ? QemuSourceState.PostcopyActive : _state;
                    }

                    break;
                case ReturnPathMessageType.RecvBitmap when _state == QemuSourceState.PostcopyRecover && !_resumeSent:
                    ApplyBitmap(message.Block!.Index, message.Bitmap.Span);
                    break;
                case ReturnPathMessageType.ResumeAck when _state == QemuSourceState.PostcopyRecover && _resumeSent:
                    _resumeAcknowledged = message.Value == QemuWire.ResumeAckValue
                        ? true
                        : throw new MigrationStreamException(
                            message.StreamOffset, "return path", $"RESUME_ACK {QemuWire.ResumeAckValue}", $"{message.Value}");
                    break;
                case ReturnPathMessageType.RecvBitmap:
                    throw new MigrationStreamException(message.StreamOffset, "return path", "a bitmap only when asked for", $"one in state {_state}");
                default:
                    // SWITCHOVER_ACK, and a RESUME_ACK out of place, which QEMU ignores too.
                    break;
            }

            Monitor.PulseAll(_lock);
        }

        return type != ReturnPathMessageType.Shut;
    }

    /// <summary>They were sent and arrived damaged: they are to be sent as if never sent.</summary>
    private void ApplyResend(StreamRamBlock block, long start, long length)
    {
        DirtyPages dirty = _dirty[block.Index];
        for (long page = start >> dirty.PageShift; page << dirty.PageShift < start + length; page++)
        {
            Interlocked.Increment(ref _resent);
            dirty.Mark(page);
        }
    }

    private void ApplyRequest(SourceConnection connection, StreamRamBlock block, long start, long length)
    {
        if (length == 0)
        {
            return;
        }

        int shift = _dirty[block.Index].PageShift;
        PageRange pages = new(block.Index, start >> shift, ((start + length - 1) >> shift) + 1);
        if (connection.Urgent is { } urgent)
        {
            lock (urgent)
            {
                SendRequested(urgent, pages);
            }

            lock (_lock)
            {
                _cursor = (pages.Block, pages.End);
                Monitor.PulseAll(_lock);
            }

            return;
        }

        lock (_lock)
        {
            if (_requestQueue.Count >= MaxQueuedRequests)
            {
                throw new MigrationStreamException(
                    connection.ReturnPath.StreamOffset, "return path", $"at most {MaxQueuedRequests} open requests", "one more");
            }

            _requestQueue.Enqueue(pages);
            Monitor.PulseAll(_lock);
        }
    }

    /// <summary>What the destination has not got is to be sent: a host page whole, when one of its target pages is missing.</summary>
    private void ApplyBitmap(int block, ReadOnlySpan<byte> received)
    {
        DirtyPages dirty = _dirty[block];
        dirty.Clear();
        long targetPages = _blocks[block].Length / TargetPageSize;
        int targetPagesPerPage = (int)(_blocks[block].PageSize / TargetPageSize);
        for (long page = 0; page < targetPages; page++)
        {
            if ((received[(int)(page / 8)] & (1 << (int)(page % 8))) == 0)
            {
                dirty.Mark(page / targetPagesPerPage);
            }
        }

        _bitmapsReceived.Add(block);
    }

    /// <summary>Waits until something that the return path changes is so.</summary>
    private void WaitUntil(SourceConnection connection, Func<bool> condition)
    {
        lock (_lock)
        {
            while (!condition())
            {
                ThrowIfEndedLocked(connection);
                if (_shut is { } status)
                {
                    // Nothing follows a SHUT: what is waited for will not come any more.
                    throw new MigrationStreamException(connection.ReturnPath.StreamOffset, "return path", "an answer before SHUT", $"SHUT {status}");
                }

                Monitor.Wait(_lock);
            }
        }
    }

    private void ThrowIfEndedLocked(SourceConnection connection)
    {
        if (_cancelled)
        {
            throw new MigrationConnectionException(ConnectionLossReason.Aborted, "The migration was cancelled.");
        }

        if (connection.Failure is { } failure)
        {
            throw failure is MigrationConnectionException or MigrationStreamException
                ? failure
                : new InvalidOperationException($"Serving a request failed: {failure.Message}", failure);
        }
    }
}
