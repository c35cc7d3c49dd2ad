using System.Buffers.Binary;
using System.Runtime.CompilerServices;

namespace Postcopy.Uffd.Qemu;

/// <content>
/// Neighbouring pages, many at a time. A source that sends memory in order leaves nothing to find out but the end of the run:
/// pages of content are received to where they are wanted with their heads guessed, zero pages are compared with what must
/// come next.
/// </content>
public sealed partial class QemuStreamReader
{
    private const int FewestNeighbours = 16;
    private const int MostNeighbours = 1 << 20;

    private PageScatter? _scatter;
    private int _neighbours;
    private int _neighboursWanted = FewestNeighbours;
    private long _lastOffset;
    private int _scattered;
    private nuint _scatteredAt;

    /// <summary>Where pages of a run may go; null: to a buffer of the reader's own.</summary>
    internal IPageTarget? Target { get; set; }

    /// <summary>Pages whose heads were guessed right, so that they were received to where they were wanted.</summary>
    internal long ScatteredPages { get; private set; }

    /// <summary>Pages of content that can have been received and not placed, at most.</summary>
    internal int MostPagesAtOnce => (_options.ReceiveBufferSize / (RecordHead + _state.TargetPageSize)) + 1 + PageScatter.MostPages;

    /// <summary>
    /// After a zero page: consumes those behind it that are here, continue its block without a gap and could not be refused.
    /// Most of a guest is zero, and its records cost more to take apart one by one than their pages to place.
    /// </summary>
    /// <returns>How many; the properties still speak of the first.</returns>
    internal unsafe int TakeZeroRun()
    {
        // A host page of several target pages is counted by the sequence; with checksums a record has more bytes.
        if (Block!.PageSize != _state.TargetPageSize || _state.HasChecksums || _step != Step.RamRecord)
        {
            return 0;
        }

        const int Length = RecordHead + 1;
        int size = _state.TargetPageSize;
        long most = Math.Min(_buffer.Available / Length, ((Block.Length - PageOffset) / size) - 1);
        ulong expected = (ulong)(PageOffset + size) | (ulong)(RamFlags.Zero | RamFlags.Continue);
        // SAFETY: the buffer has at least most records, and each is read inside its nine bytes.
        byte* at = (byte*)_buffer.Address;
        int run = 0;
        for (; run < most; run++, at += Length, expected += (ulong)size)
        {
            if (BinaryPrimitives.ReverseEndianness(Unsafe.ReadUnaligned<ulong>(at)) != expected || at[RecordHead] != 0)
            {
                break;
            }
        }

        _buffer.Advance(run * Length);
        ZeroPageRecords += run;
        return run;
    }

    /// <summary>After a page: consumes its neighbours that were received behind it, without a gap in memory either.</summary>
    /// <param name="most">No more than that.</param>
    /// <returns>How many; the properties still speak of the first.</returns>
    internal int TakePageRun(int most)
    {
        if (_scattered == 0 || Data + (nuint)DataLength != _scatteredAt)
        {
            return 0;
        }

        int run = Math.Min(most, _scattered);
        Consume(run);
        return run;
    }

    /// <summary>Counts pages of content that continue each other: the source is sending memory in order.</summary>
    private void NoteNeighbour(StreamRamBlock block, long offset, RamFlags flags)
    {
        _neighbours = flags == (RamFlags.Page | RamFlags.Continue) && ReferenceEquals(block, _lastBlock) && offset == _lastOffset + _state.TargetPageSize
            ? Math.Min(_neighbours + 1, MostNeighbours)
            : 0;
        _lastOffset = offset;
    }

    private bool TakeScattered(out StreamRecordKind kind)
    {
        kind = StreamRecordKind.None;
        if (_scattered == 0 && !(_mayFill && _neighbours >= _neighboursWanted && Scatter()))
        {
            return false;
        }

        Data = _scatteredAt;
        DataLength = _state.TargetPageSize;
        Consume(1);
        Block = _lastBlock;
        PageOffset = _lastOffset;
        kind = StreamRecordKind.Page;
        return true;
    }

    private void Consume(int pages)
    {
        _scattered -= pages;
        _scatteredAt += (nuint)(pages * _state.TargetPageSize);
        _lastOffset += (long)pages * _state.TargetPageSize;
        PageRecords += pages;
        ScatteredPages += pages;
        _buffer.Skipped(pages * (RecordHead + _state.TargetPageSize));
    }

    /// <summary>Receives pages that are expected to follow the last one. What came instead is in the buffer afterwards.</summary>
    /// <returns>False when none came whole.</returns>
    private bool Scatter()
    {
        int size = _state.TargetPageSize;
        long first = _lastOffset + size;
        StreamRamBlock block = _lastBlock!;

        // Only in postcopy, where a page is handed on and not looked at; only where each record stands for itself.
        if (_state.Phase != StreamPhase.Running || _kind == StreamKind.Urgent || block.PageSize != size || _state.HasChecksums ||
            first >= block.Length || !_buffer.MayScatter || _buffer.Available >= RecordHead + size)
        {
            return false;
        }

        _scatter ??= new PageScatter(size, _options.ReceiveBufferSize);
        int pages = (int)Math.Min(_scatter.Capacity, (block.Length - first) / size);
        int room = pages;
        nuint target = Target?.TryTake(block, first, ref room) ?? 0;
        if (target == 0 || room <= 0)
        {
            target = _scatter.Buffer;
        }
        else
        {
            pages = Math.Min(pages, room);
        }

        bool guessed = _scatter.Receive(_buffer, (ulong)first | (ulong)(RamFlags.Page | RamFlags.Continue), target, pages, CurrentSection, out int whole);
        _scattered = whole;
        _scatteredAt = target;

        // A source that pauses its runs often is read through the buffer: a wrong guess costs a copy of what was received.
        _neighboursWanted = guessed ? Math.Max(FewestNeighbours, _neighboursWanted / 2) : Math.Min(MostNeighbours, _neighboursWanted * 4);
        _neighbours = guessed ? _neighbours : 0;
        return whole > 0;
    }
}
