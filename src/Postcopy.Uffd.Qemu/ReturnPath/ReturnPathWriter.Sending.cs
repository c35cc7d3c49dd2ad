namespace Postcopy.Uffd.Qemu;

/// <content>Sending what is queued: one sender of the moment, and a thread that may wait.</content>
public sealed partial class ReturnPathWriter
{
    private enum Drained
    {
        /// <summary>The queue was empty.</summary>
        Empty,

        /// <summary>The rest needs a thread that may wait.</summary>
        MustWait,

        /// <summary>The connection is lost.</summary>
        Broken,
    }

    /// <summary>Queues a message of the control side, waiting for room.</summary>
    private void Enqueue(ReadOnlySpan<byte> message, byte[]? bulk = null)
    {
        while (true)
        {
            ThrowIfBroken();
            long full = _ring.Tail;
            if (_ring.TryEnqueue(message, bulk))
            {
                SendQueued(mayWait: false);
                return;
            }

            // A full ring empties in order: wait until its oldest half is sent.
            WaitForHead(full - (_capacity / 2), Timeout.InfiniteTimeSpan);
        }
    }

    /// <summary>Waits until the messages before a position are sent; false when the time is over.</summary>
    private bool WaitForHead(long position, TimeSpan timeout)
    {
        long started = TimeProvider.System.GetTimestamp();
        while (_ring.Head < position)
        {
            ThrowIfBroken();
            _progress.Reset();
            // The sender sets _progress after it moved the head, so: reset, look again, wait.
            if (_ring.Head >= position || _broken || _stopping)
            {
                continue;
            }

            _wake.Set();
            TimeSpan left = timeout == Timeout.InfiniteTimeSpan ? timeout : timeout - TimeProvider.System.GetElapsedTime(started);
            if ((left < TimeSpan.Zero && timeout != Timeout.InfiniteTimeSpan) || !_progress.Wait(left))
            {
                return false;
            }
        }

        return true;
    }

    /// <summary>
    /// Sends if nobody else is sending. Who finds somebody sending may leave: the sender looks at the queue once more after
    /// it has let go, and both the enqueue and the letting go are full barriers, so one of the two sees the message.
    /// </summary>
    private void SendQueued(bool mayWait)
    {
        do
        {
            if (Interlocked.CompareExchange(ref _sending, 1, 0) != 0)
            {
                return;
            }

            Drained drained = _broken ? Drained.Broken : Drain(mayWait);
            Interlocked.Exchange(ref _sending, 0);
            if (drained != Drained.Empty)
            {
                if (!mayWait)
                {
                    _wake.Set();
                }

                return;
            }
        }
        while (_ring.HasMessage);
    }

    private Drained Drain(bool mayWait)
    {
        while (_ring.TryPeek(out ReadOnlySpan<byte> message, out byte[]? bulk))
        {
            if (mayWait)
            {
                if (!SendWaiting(message, bulk))
                {
                    return Drained.Broken;
                }
            }
            else
            {
                if (bulk is not null || !_channel.CanTrySend)
                {
                    return Drained.MustWait;
                }

                while (_sentOfHead < message.Length)
                {
                    int sent = _channel.TrySend(message[_sentOfHead..]);
                    if (sent < 0)
                    {
                        _broken = true;
                        return Drained.Broken;
                    }

                    if (sent == 0)
                    {
                        return Drained.MustWait;
                    }

                    _sentOfHead += sent;
                }
            }

            _sentOfHead = 0;
            _ring.Pop();
        }

        return Drained.Empty;
    }

    private bool SendWaiting(ReadOnlySpan<byte> message, byte[]? bulk)
    {
        try
        {
            _channel.Send(message[_sentOfHead..]);
            if (bulk is not null)
            {
                _channel.Send(bulk);
            }

            return true;
        }
        catch (MigrationConnectionException e)
        {
            _failure = e;
            _broken = true;
            return false;
        }
    }

    private void SendLoop()
    {
        while (!_stopping)
        {
            _wake.Wait();
            SendQueued(mayWait: true);
            _progress.Set();
        }
    }

    private void ThrowIfBroken()
    {
        if (_broken || _stopping)
        {
            throw new MigrationConnectionException(
                _failure?.Reason ?? (_stopping ? ConnectionLossReason.Aborted : ConnectionLossReason.TransportError),
                $"The return path is closed: {_failure?.Message ?? (_stopping ? "disposed by this side" : "the peer took nothing more")}.",
                _failure?.Errno ?? 0,
                _failure);
        }
    }
}
