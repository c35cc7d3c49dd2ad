namespace Postcopy.Uffd.Qemu;

/// <content>The main connection, record by record.</content>
public sealed partial class QemuIncoming
{
    private const int TargetPage = HostPageAssembler.TargetPageBytes;

    // A receiver that is faster than its source finds the socket empty after every read. Pages of a stretch that is filling
    // may stay staged for so long: a fault on one places it at once (placement.md, "Staging"), or keeps it back no longer.
    private static readonly TimeSpan s_stretchPatience = TimeSpan.FromMilliseconds(2);

    // Where faults wait for whole stretches, as long as they do.
    private TimeSpan StretchPatience => _destination.Placer.Stretches == StretchPlacement.WholeOnFault && _destination.Placer.StretchPatience > s_stretchPatience
        ? _destination.Placer.StretchPatience
        : s_stretchPatience;

    private void ReadMain(IncomingLink link, QemuStreamReader reader, StreamRecordKind first)
    {
        ReturnPathWriter writer = link.Writer;
        using ChannelPlacer placer = new(_destination.Placer, BlockOf, link.Parts, stretches: true, reader.MostPagesAtOnce);
        reader.Target = placer;
        using DiscardCheck discards = new();
        byte[] delta = [];
        StreamRecordKind kind = first == StreamRecordKind.None ? reader.ReadNext() : first;
        while (kind != StreamRecordKind.EndOfStream)
        {
            bool consumed = true;
            // QEMU and QemuSource end a section every few pages, which says nothing about memory. All else may.
            if (placer.IsFilling && kind is not (StreamRecordKind.Page or StreamRecordKind.ZeroPage or StreamRecordKind.SectionEnd))
            {
                placer.Flush();
            }

            switch (kind)
            {
                case StreamRecordKind.OpenReturnPath when _options.SwitchoverAck:
                    writer.SwitchoverAck();
                    break;
                case StreamRecordKind.Ping:
                    Answer(writer, reader.PingValue);
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
                case StreamRecordKind.CorruptPage:
                    LeaveOut(link, reader, placer);
                    break;
                case StreamRecordKind.Page or StreamRecordKind.ZeroPage or StreamRecordKind.XbzrlePage:
                    WritePrecopy(reader, kind, ref delta);
                    break;
                case StreamRecordKind.Discard:
                    Discard(reader, discards);
                    break;
                case StreamRecordKind.Package:
                    DiscardSpoiled(discards);
                    discards.Verify(_blocks);
                    BeginPostcopy(reader.Package!, link, reader.StreamOffset);
                    break;
                case StreamRecordKind.ReceivedBitmapRequest:
                    SendReceivedBitmap(_blocks[reader.Block!.Index], reader.Block!, writer);
                    break;
                case StreamRecordKind.PostcopyResume:
                    Resume(link);
                    break;
            }

            if (consumed)
            {
                if (placer.IsFilling && !link.Main.WaitForMore(StretchPatience))
                {
                    placer.Flush();
                }

                kind = reader.ReadNext();
            }
        }

        placer.Flush();
        Complete(link);
    }

    /// <summary>What is in the socket still counts when the peer is gone already, the package above all: reading finds the end.</summary>
    private static void Answer(ReturnPathWriter writer, uint ping)
    {
        try
        {
            writer.Pong(ping);
        }
        catch (MigrationConnectionException)
        {
            // See above.
        }
    }

    /// <summary>
    /// Takes a page and all that are in the receive buffer behind it, so that the fault thread sees them, then places them; what
    /// is awaited is placed as it is taken. Never waits for more: only a stretch of 2 MiB that is filling stays staged, and not
    /// while the socket is idle.
    /// </summary>
    /// <returns>The next record when one was read that is no page; None when all that is here is placed.</returns>
    private StreamRecordKind PlaceBatch(QemuStreamReader reader, ChannelPlacer placer, StreamRecordKind kind, ref long counter)
    {
        long pages = 0;
        long zeros = 0;
        try
        {
            while (kind is StreamRecordKind.Page or StreamRecordKind.ZeroPage or StreamRecordKind.SectionEnd && !placer.IsFull)
            {
                if (kind == StreamRecordKind.SectionEnd)
                {
                    // Says nothing about memory, and QEMU sends one every few pages.
                    kind = reader.TryReadBuffered();
                    continue;
                }

                RamBlock block = BlockOf(reader.Block!);
                nuint data = kind == StreamRecordKind.Page ? reader.Data : 0;
                int more = 0;
                if (ChannelPlacer.TakesRuns(block))
                {
                    more = data == 0 ? reader.TakeZeroRun() : reader.TakePageRun(StagingWindow.DefaultCapacity);
                    placer.AddRun(block, reader.PageOffset, data, 1 + more);
                }
                else if (!placer.TryAdd(block, reader.PageOffset, data))
                {
                    throw new MigrationStreamException(
                        reader.StreamOffset, QemuWire.RamSectionName, $"at most {HostPageParts.MostOpen} host pages in parts", $"one more, block '{block.Name}' offset 0x{reader.PageOffset:x}");
                }

                pages += 1 + more;
                zeros += data == 0 ? 1 + more : 0;
                kind = reader.TryReadBuffered();
            }
        }
        finally
        {
            // Also when the record behind them is malformed: the fault thread may be reading a staged page.
            _ = Interlocked.Add(ref _pages, pages - zeros);
            _ = Interlocked.Add(ref _zeroPages, zeros);
            _ = Interlocked.Add(ref counter, pages);
            placer.FlushPages();
        }

        return kind;
    }

    private RamBlock BlockOf(StreamRamBlock block) => _blocks[block.Index];

    private unsafe void WritePrecopy(QemuStreamReader reader, StreamRecordKind kind, ref byte[] delta)
    {
        RamBlock block = BlockOf(reader.Block!);
        long offset = reader.PageOffset;
        int pages = kind == StreamRecordKind.ZeroPage ? 1 + reader.TakeZeroRun() : 1;
        _ = Interlocked.Add(ref _precopyPages, pages);
        switch (kind)
        {
            case StreamRecordKind.ZeroPage:
                _ = Interlocked.Add(ref _zeroPages, pages);
                _destination.Placer.ZeroPrecopy(block, offset, (long)pages * TargetPage);
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
}
