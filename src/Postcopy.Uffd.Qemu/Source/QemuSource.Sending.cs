namespace Postcopy.Uffd.Qemu;

/// <content>The order of events on the main channel (qemu-wire.md 3.1), by the source's thread.</content>
public sealed partial class QemuSource
{
    /// <summary>Host pages in one ram section, as QEMU looks at the clock; a section of huge pages is long there too.</summary>
    private const int PagesPerSection = 64;

    private (int Block, long Page) _cursor;
    private bool _switched;
    private bool _packageSent;
    private bool _endSent;
    private bool _resumeSent;
    private long _pages;
    private long _zeroPages;
    private long _precopyPages;
    private long _requests;
    private long _urgentPages;
    private long _resent;

    private void RunMigration(SourceConnection connection, Func<MigrationChannel>? openUrgent)
    {
        QemuStreamWriter writer = connection.Writer;
        writer.Header(_options.MachineType, _options.Uuid);
        writer.Command(MigrationCommand.OpenReturnPath);
        writer.Ping(QemuWire.PingReturnPathOpen);
        writer.Flush();
        if (_options.Preempt == QemuPreemptMode.AtStart)
        {
            connection.OpenUrgent(openUrgent!());
        }

        ulong pageSizes = 0;
        foreach (StreamRamBlock block in _blocks)
        {
            pageSizes |= (ulong)block.PageSize;
        }

        writer.Advise(pageSizes);
        writer.RamStart(RamSectionId, _blocks, _options.HostPageSize);
        writer.Flush();
        Precopy(connection);
        if (_options.Preempt == QemuPreemptMode.AtSwitch)
        {
            WaitUntil(connection, () => _firstPong);
            connection.OpenUrgent(openUrgent!());
        }

        Switch(writer);
        Postcopy(connection);
    }

    private void RunRecovery(SourceConnection connection, Func<MigrationChannel>? openUrgent)
    {
        QemuStreamWriter writer = connection.Writer;
        _resumeSent = false;
        foreach (StreamRamBlock block in _blocks)
        {
            byte[] name = block.NameBytes;
            writer.Command(MigrationCommand.RecvBitmap, (byte[])[(byte)name.Length, .. name]);
        }

        writer.Flush();
        WaitUntil(connection, () => _bitmapsReceived.Count == _blocks.Length);
        if (openUrgent is not null)
        {
            connection.OpenUrgent(openUrgent());
        }

        lock (_lock)
        {
            _resumeSent = true;
        }

        writer.Command(MigrationCommand.PostcopyResume);
        writer.Flush();
        WaitUntil(connection, () => _resumeAcknowledged);
        lock (_lock)
        {
            _state = QemuSourceState.PostcopyActive;
        }

        Postcopy(connection);
    }

    private void Precopy(SourceConnection connection)
    {
        long left = _options.PrecopyLimit;
        for (int pass = 0; pass < _options.PrecopyPasses && left > 0 && RemainingBytes() > 0; pass++)
        {
            for (int block = 0; block < _blocks.Length && left > 0; block++)
            {
                left = PrecopyBlock(connection, block, left);
            }
        }

        connection.Writer.Flush();
    }

    private long PrecopyBlock(SourceConnection connection, int block, long left)
    {
        QemuStreamWriter writer = connection.Writer;
        DirtyPages dirty = _dirty[block];
        int inSection = 0;
        for (long page = dirty.NextMarked(0); page >= 0 && left > 0; page = dirty.NextMarked(page + 1))
        {
            WaitForBandwidth(connection, _blocks[block].PageSize);
            if (inSection++ == 0)
            {
                writer.RamContinue(RamSectionId, last: false);
            }

            if (dirty.TryTake(page))
            {
                _precopyPages += SendHostPage(writer, block, page);
                left -= _blocks[block].PageSize;
            }

            if (inSection == PagesPerSection)
            {
                writer.SectionFinish(RamSectionId);
                inSection = 0;
            }
        }

        if (inSection > 0)
        {
            writer.SectionFinish(RamSectionId);
        }

        return left;
    }

    private void Switch(QemuStreamWriter writer)
    {
        // The guest may still write, and its host mark pages, until this returns.
        ReadOnlyMemory<byte> deviceSections = _options.StopGuest is { } stop ? stop() : _options.DeviceSections;
        lock (_lock)
        {
            _switched = true;
        }

        if (_options.SendSwitchoverStart)
        {
            writer.Command(MigrationCommand.SwitchoverStart);
        }

        for (int block = 0; block < _blocks.Length; block++)
        {
            DiscardDirty(writer, block);
        }

        writer.Ping(QemuWire.PingBeforePackage);
        lock (_lock)
        {
            // Before the package is on its way: its PONG may be back before this thread is.
            _packageSent = true;
            _state = _options.UsePointOfNoReturn && !_pointOfNoReturnPong ? QemuSourceState.PostcopyDevice : QemuSourceState.Active;
        }

        writer.Package(deviceSections.Span, _options.UsePointOfNoReturn);
        writer.Ping(QemuWire.PingAfterPackage);
        writer.Flush();
        lock (_lock)
        {
            _state = _state == QemuSourceState.Active ? QemuSourceState.PostcopyActive : _state;
        }
    }

    private void DiscardDirty(QemuStreamWriter writer, int block)
    {
        DirtyPages dirty = _dirty[block];
        Span<DiscardRange> ranges = stackalloc DiscardRange[QemuWire.DiscardRangesPerCommand];
        int count = 0;
        for (long first = dirty.NextMarked(0); first >= 0;)
        {
            long end = dirty.NextClear(first);
            ranges[count++] = new DiscardRange(first << dirty.PageShift, (end - first) << dirty.PageShift);
            first = end < dirty.Pages ? dirty.NextMarked(end) : -1;
            if (count == ranges.Length || first < 0)
            {
                writer.Discard(_blocks[block], ranges[..count]);
                count = 0;
            }
        }
    }

    private void Postcopy(SourceConnection connection)
    {
        QemuStreamWriter writer = connection.Writer;
        do
        {
            SendAll(connection);
        }
        while (_options.PageChecksums && !AllVerified(connection));

        if (_options.UsePointOfNoReturn)
        {
            WaitUntil(connection, () => _pointOfNoReturnPong);
        }

        writer.RamContinue(RamSectionId, last: true);
        writer.SectionFinish(RamSectionId);
        writer.EndOfFile();
        lock (_lock)
        {
            _endSent = true;
        }

        writer.Flush();
        // A source with checksums may still be asked for pages that arrived damaged there: its channel has no end mark.
        if (_options.Preempt == QemuPreemptMode.AtStart && !_options.PageChecksums && connection.Urgent is { } urgent)
        {
            lock (urgent)
            {
                urgent.EndOfRecords();
                urgent.Flush();
            }
        }

        WaitUntil(connection, () => _shut is not null);
        if (_shut is { } status and not 0)
        {
            throw new MigrationStreamException(connection.ReturnPath.StreamOffset, "return path", "SHUT 0", $"{status}: the destination failed");
        }
    }

    /// <summary>All that is left, and what is asked for meanwhile.</summary>
    private void SendAll(SourceConnection connection)
    {
        QemuStreamWriter writer = connection.Writer;
        int inSection = 0;
        while (true)
        {
            if (inSection == 0)
            {
                writer.RamContinue(RamSectionId, last: false);
            }

            if (!SendNext(connection))
            {
                break;
            }

            if (++inSection == PagesPerSection)
            {
                writer.SectionFinish(RamSectionId);
                inSection = 0;
            }
        }

        writer.SectionFinish(RamSectionId);
        writer.Flush();
    }

    /// <summary>True when the destination has seen all pages of the main connection and wants none of them again.</summary>
    private bool AllVerified(SourceConnection connection)
    {
        lock (_lock)
        {
            _verifiedPong = false;
        }

        connection.Writer.Ping(QemuWire.PingPagesVerified);
        connection.Writer.Flush();
        WaitUntil(connection, () => _verifiedPong);
        return RemainingBytes() == 0;
    }

    /// <summary>Sends the next host page: one that was asked for, else the one after the last one. False when none is left.</summary>
    private bool SendNext(SourceConnection connection)
    {
        while (true)
        {
            bool requested;
            PageRange pages;
            (int Block, long Page) next = default;
            lock (_lock)
            {
                ThrowIfEndedLocked(connection);
                if (_shut is not null)
                {
                    throw new MigrationStreamException(
                        connection.ReturnPath.StreamOffset, "return path", "no SHUT before the end of the stream", $"SHUT {_shut}");
                }

                requested = _requestQueue.TryDequeue(out pages);
                if (!requested && !TryFindBackgroundLocked(out next))
                {
                    return false;
                }
            }

            if (requested)
            {
                if (SendRequested(connection.Writer, pages) == 0)
                {
                    continue;
                }

                lock (_lock)
                {
                    _cursor = (pages.Block, pages.End);
                }

                return true;
            }

            TimeSpan delay = _limiter.Take(_blocks[next.Block].PageSize);
            if (delay > TimeSpan.Zero)
            {
                connection.Writer.Flush();
                WaitForRequestOr(connection, delay);
            }
            else if (_dirty[next.Block].TryTake(next.Page))
            {
                SendHostPage(connection.Writer, next.Block, next.Page);
                lock (_lock)
                {
                    // Unless a request has moved it meanwhile.
                    if (_cursor == next)
                    {
                        _cursor = (next.Block, next.Page + 1);
                    }
                }

                return true;
            }
        }
    }

    /// <summary>The next page from the cursor on, over all blocks and round; the cursor moves to it.</summary>
    private bool TryFindBackgroundLocked(out (int Block, long Page) found)
    {
        (int block, long page) = _cursor;
        for (int tried = 0; tried <= _blocks.Length; tried++)
        {
            long next = _dirty[block].NextMarked(page);
            if (next >= 0)
            {
                found = _cursor = (block, next);
                return true;
            }

            block = (block + 1) % _blocks.Length;
            page = 0;
        }

        found = default;
        return false;
    }

    private void WaitForRequestOr(SourceConnection connection, TimeSpan delay)
    {
        lock (_lock)
        {
            if (_requestQueue.Count == 0 && !_cancelled && connection.Failure is null)
            {
                Monitor.Wait(_lock, TimeSpan.FromMilliseconds(Math.Ceiling(delay.TotalMilliseconds)));
            }
        }
    }

    private void WaitForBandwidth(SourceConnection connection, long bytes)
    {
        while (_limiter.Take(bytes) is { } delay && delay > TimeSpan.Zero)
        {
            connection.Writer.Flush();
            lock (_lock)
            {
                ThrowIfEndedLocked(connection);
                Monitor.Wait(_lock, TimeSpan.FromMilliseconds(Math.Ceiling(delay.TotalMilliseconds)));
            }
        }
    }
}
