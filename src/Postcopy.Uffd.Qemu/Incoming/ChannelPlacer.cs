namespace Postcopy.Uffd.Qemu;

/// <summary>
/// Puts the pages of one channel into the guest after the switch: small pages through a staging window, huge ones
/// through an assembler of the channel's own (qemu-wire.md 2.4). Used by the channel's thread.
/// </summary>
internal sealed class ChannelPlacer : IPageTarget, IDisposable
{
    private readonly StagingWindow _window;
    private readonly Func<StreamRamBlock, RamBlock> _blockOf;
    private readonly HostPageAssembler _assembler;
    private readonly HostPageParts? _parts;
    private RamBlock? _spoiled;
    private long _spoiledEnd;

    /// <param name="placer">Where the pages go.</param>
    /// <param name="blockOf">The destination's block for one of the stream.</param>
    /// <param name="parts">On a resumed link: where its channels put huge pages together. Null on the first one.</param>
    /// <param name="stretches">The channel brings memory in order: whole stretches of 2 MiB may become huge pages.</param>
    /// <param name="atOnce">Pages that the channel can have received at once (<see cref="QemuStreamReader.MostPagesAtOnce"/>).</param>
    internal ChannelPlacer(PostcopyPlacer placer, Func<StreamRamBlock, RamBlock> blockOf, HostPageParts? parts, bool stretches, int atOnce)
    {
        _blockOf = blockOf;
        _parts = parts;
        _window = placer.CreateWindow(stretches, Math.Max(atOnce, StagingWindow.DefaultCapacity));
        _assembler = placer.CreateAssembler();
    }

    /// <summary>True when the window must be flushed before another page.</summary>
    internal bool IsFull => _window.IsFull;

    /// <summary>True when neighbours of a page of this block may be given together.</summary>
    internal static bool TakesRuns(RamBlock block) => block.PageSize.Bytes == HostPageAssembler.TargetPageBytes;

    /// <summary>Takes neighbouring small pages, which the next flush places if not before.</summary>
    internal void AddRun(RamBlock block, long offset, nuint data, int pages) => _window.Add(block, offset, data, pages);

    nuint IPageTarget.TryTake(StreamRamBlock block, long offset, ref int pages)
    {
        RamBlock ours = _blockOf(block);
        return TakesRuns(ours) ? _window.RoomFor(ours, offset, ref pages) : 0;
    }

    /// <summary>Takes a target page; small ones are placed by the next flush.</summary>
    /// <returns>False: nothing was taken, too many host pages of a resumed link are in parts.</returns>
    internal bool TryAdd(RamBlock block, long offset, nuint data)
    {
        if (block.PageSize.Bytes == HostPageAssembler.TargetPageBytes)
        {
            _window.Add(block, offset, data);
            return true;
        }

        if (IsSpoiled(block, offset))
        {
            return true;
        }

        if (_parts is not null)
        {
            bool taken = _parts.TryAdd(block, offset, data, out PlaceResult? placed);
            if (placed is { } whole)
            {
                Check(whole);
            }

            return taken;
        }

        AssemblyOutcome outcome = data == 0
            ? _assembler.AddZero(block, offset, out PlaceResult result)
            : _assembler.Add(block, offset, data, out result);
        switch (outcome)
        {
            case AssemblyOutcome.Placed:
                Check(result);
                break;
            case AssemblyOutcome.OutOfSequence:
                throw new QemuIncomingException(
                    $"The target page at offset 0x{offset:x} of RAM block '{block.Name}' does not continue its host page of {block.PageSize}.", sourceMayResume: false);
        }

        return true;
    }

    /// <summary>A target page that must not be used: the host page it belongs to is left out.</summary>
    /// <returns>True for the first of its host page.</returns>
    internal bool AddCorrupt(RamBlock block, long offset)
    {
        if (block.PageSize.Bytes == HostPageAssembler.TargetPageBytes)
        {
            return true;
        }

        if (IsSpoiled(block, offset))
        {
            return false;
        }

        _assembler.Reset();
        _parts?.Forget(block, block.PageSize.AlignDown(offset));
        _spoiledEnd = block.PageSize.AlignDown(offset) + block.PageSize.Bytes;
        _spoiled = offset + HostPageAssembler.TargetPageBytes == _spoiledEnd ? null : block;
        return true;
    }

    /// <summary>True for the rest of a host page that is left out; its target pages come one after the other.</summary>
    private bool IsSpoiled(RamBlock block, long offset)
    {
        bool spoiled = _spoiled == block;
        if (spoiled && offset + HostPageAssembler.TargetPageBytes == _spoiledEnd)
        {
            _spoiled = null;
        }

        return spoiled;
    }

    /// <summary>True while a stretch of 2 MiB is staged in part: it must be flushed before the channel waits for long.</summary>
    internal bool IsFilling => _window.IsFilling;

    /// <summary>Places what is staged but for a stretch that is filling; the receive buffer may be reused afterwards.</summary>
    internal void FlushPages() => Check(_window.FlushPages());

    /// <summary>Places all that is staged.</summary>
    internal void Flush() => Check(_window.Flush());

    /// <summary>Places what an error has left staged: the source is told that it has come, or counts it as sent.</summary>
    public void Dispose()
    {
        _ = _window.Flush();
        _window.Dispose();
        _assembler.Dispose();
    }

    private static void Check(PlaceResult result)
    {
        if (!result.IsReceived)
        {
            throw new QemuIncomingException($"A page could not be placed: {result}.", sourceMayResume: false);
        }
    }
}
