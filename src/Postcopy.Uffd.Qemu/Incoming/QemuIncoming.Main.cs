namespace Postcopy.Uffd.Qemu;

/// <content>The main connection, record by record.</content>
public sealed partial class QemuIncoming
{
    private const int TargetPage = HostPageAssembler.TargetPageBytes;
    private static readonly TimeSpan s_farewell = TimeSpan.FromSeconds(10);

    private void ReadMain(MigrationChannel channel, QemuStreamReader reader, ReturnPathWriter writer)
    {
        using ChannelPlacer placer = new(_destination.Placer);
        using DiscardCheck discards = new();
        byte[] delta = [];
        if (_pointOfNoReturn)
        {
            channel.StallTimeout = _options.StallTimeout;
        }

        StreamRecordKind kind = reader.ReadNext();
        while (kind != StreamRecordKind.EndOfStream)
        {
            bool consumed = true;
            switch (kind)
            {
                case StreamRecordKind.OpenReturnPath when _options.SwitchoverAck:
                    writer.SwitchoverAck();
                    break;
                case StreamRecordKind.Ping:
                    writer.Pong(reader.PingValue);
                    break;
                case StreamRecordKind.PostcopyAdvise:
                    _destination.Advise();
                    break;
                case StreamRecordKind.BlockList:
                    MatchBlocks();
                    break;
                case StreamRecordKind.Page or StreamRecordKind.ZeroPage when _stream.Phase == StreamPhase.Running:
                    kind = PlaceBatch(reader, placer, kind, ref _postcopyPages);
                    consumed = kind == StreamRecordKind.None;
                    break;
                case StreamRecordKind.Page or StreamRecordKind.ZeroPage or StreamRecordKind.XbzrlePage:
                    WritePrecopy(reader, kind, ref delta);
                    break;
                case StreamRecordKind.Discard:
                    Discard(reader, discards);
                    break;
                case StreamRecordKind.Package:
                    discards.Verify(_blocks);
                    BeginPostcopy(reader.Package!, writer);
                    channel.StallTimeout = _options.StallTimeout;
                    break;
                case StreamRecordKind.ReceivedBitmapRequest:
                    SendReceivedBitmap(_blocks[reader.Block!.Index], reader.Block!, writer);
                    break;
                case StreamRecordKind.PostcopyResume:
                    Resume(writer);
                    break;
            }

            if (consumed)
            {
                kind = reader.ReadNext();
            }
        }

        _mainEnded = true;
        Complete(channel, writer);
    }

    private long _postcopyPages;

    /// <summary>
    /// Takes a page and all that are in the receive buffer behind it, then places them. Never waits for more: nothing
    /// stays staged while the socket is idle.
    /// </summary>
    /// <returns>The next record when one was read that is no page; None when all that is here is placed.</returns>
    private StreamRecordKind PlaceBatch(QemuStreamReader reader, ChannelPlacer placer, StreamRecordKind kind, ref long counter)
    {
        long pages = 0;
        long zeros = 0;
        while (kind is StreamRecordKind.Page or StreamRecordKind.ZeroPage && !placer.IsFull)
        {
            placer.Add(_blocks[reader.Block!.Index], reader.PageOffset, kind == StreamRecordKind.Page ? reader.Data : 0);
            pages++;
            zeros += kind == StreamRecordKind.ZeroPage ? 1 : 0;
            kind = reader.TryReadBuffered();
        }

        placer.Flush();
        _ = Interlocked.Add(ref _pages, pages - zeros);
        _ = Interlocked.Add(ref _zeroPages, zeros);
        _ = Interlocked.Add(ref counter, pages);
        return kind;
    }

    private unsafe void WritePrecopy(QemuStreamReader reader, StreamRecordKind kind, ref byte[] delta)
    {
        RamBlock block = _blocks[reader.Block!.Index];
        long offset = reader.PageOffset;
        _ = Interlocked.Increment(ref _precopyPages);
        switch (kind)
        {
            case StreamRecordKind.ZeroPage:
                _ = Interlocked.Increment(ref _zeroPages);
                _destination.Placer.ZeroPrecopy(block, offset, TargetPage);
                return;
            case StreamRecordKind.Page:
                _ = Interlocked.Increment(ref _pages);
                _destination.Placer.WritePrecopy(block, offset, reader.Data, TargetPage);
                return;
        }

        // The page as it is, the delta on top of it, and back.
        _ = Interlocked.Increment(ref _pages);
        delta = delta.Length == 0 ? GC.AllocateUninitializedArray<byte>(TargetPage, pinned: true) : delta;
        block.Read(offset, delta);
        // SAFETY: the delta lies in the reader's own buffer until the next record is read.
        if (!XbzrleDelta.TryApply(new ReadOnlySpan<byte>((void*)reader.Data, reader.DataLength), delta))
        {
            throw new MigrationStreamException(reader.StreamOffset, "ram", "an XBZRLE delta inside a page", $"one that leaves it, for offset 0x{offset:x} of '{block.Name}'");
        }

        // SAFETY: the array is pinned for good, and not guest memory.
        _destination.Placer.WritePrecopy(block, offset, (nuint)System.Runtime.CompilerServices.Unsafe.AsPointer(ref delta[0]), TargetPage);
    }

    private void Discard(QemuStreamReader reader, DiscardCheck check)
    {
        RamBlock block = _blocks[reader.Block!.Index];
        ReadOnlySpan<DiscardRange> discards = reader.Discards;
        PageRange[] ranges = new PageRange[discards.Length];
        for (int i = 0; i < ranges.Length; i++)
        {
            ranges[i] = new PageRange(discards[i].Start, discards[i].Length);
            check.Add(block, ranges[i]);
        }

        _destination.Discard(block, ranges);
    }

    private void BeginPostcopy(DevicePackage package, ReturnPathWriter writer)
    {
        _destination.Listen(new PageRequester(writer, _streamBlocks));

        // Before 10.2 the source counts its guest as gone once the package is out.
        _pointOfNoReturn = !package.HasPointOfNoReturn;
        _devices = Task.Run(() => LoadDevicesAsync(package, writer));
    }

    private async Task LoadDevicesAsync(DevicePackage package, ReturnPathWriter writer)
    {
        try
        {
            if (_options.OnPackage is { } load)
            {
                await load(package, _stop.Token).ConfigureAwait(false);
            }

            foreach (uint ping in package.Pings)
            {
                writer.Pong(ping);
            }

            // The guest must not run before the source knows that it will (10.2: an error before that resumes it there).
            if (!writer.Flush(_options.StallTimeout))
            {
                throw new QemuIncomingException("The source does not take the answer to the last PING of the package.", sourceMayResume: true);
            }

            lock (_lock)
            {
                if (_over)
                {
                    return;
                }

                _pointOfNoReturn = true;
            }

            if (_destination.State == PostcopyState.Listen)
            {
                _destination.Run();
            }

            _options.OnRunning?.Invoke();
        }
        catch (Exception e)
        {
            Fail(e is MigrationConnectionException or QemuIncomingException or OperationCanceledException
                ? e
                : new QemuIncomingException($"The device state was not accepted: {e.Message}", sourceMayResume: package.HasPointOfNoReturn, e));
        }
    }

    private void Complete(MigrationChannel channel, ReturnPathWriter writer)
    {
        // Pages may still be on their way on the urgent channel.
        CompletionReport report;
        try
        {
            _devices.GetAwaiter().GetResult();
            using CancellationTokenSource patience = CancellationTokenSource.CreateLinkedTokenSource(_stop.Token);
            patience.CancelAfter(_options.StallTimeout);
            report = _destination.CompleteAsync(cancellationToken: patience.Token).GetAwaiter().GetResult();
        }
        catch (OperationCanceledException e)
        {
            throw new QemuIncomingException(
                $"The stream has ended, and after {_options.StallTimeout.TotalSeconds:0.#} s {_destination.DescribeMissing()}.", sourceMayResume: false, e);
        }

        // The guest is whole, whatever becomes of the connection from here on.
        try
        {
            writer.Shut(0);
            _ = writer.Flush(s_farewell);
            channel.StallTimeout = s_farewell;
            Volatile.Write(ref _confirmed, channel.Receive(new byte[1]) == 0);
        }
        catch (MigrationConnectionException e)
        {
            // A reset after SHUT is the source's way of closing with something unread.
            Volatile.Write(ref _confirmed, e.Reason is ConnectionLossReason.TransportError);
        }

        _ = _result.TrySetResult(report);
    }
}
