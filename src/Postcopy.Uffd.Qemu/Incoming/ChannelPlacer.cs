namespace Postcopy.Uffd.Qemu;

/// <summary>
/// Puts the pages of one channel into the guest after the switch: small pages through a staging window, huge ones
/// through an assembler of the channel's own (qemu-wire.md 2.4). Used by the channel's thread.
/// </summary>
internal sealed class ChannelPlacer : IDisposable
{
    private readonly StagingWindow _window;
    private readonly HostPageAssembler _assembler;

    internal ChannelPlacer(PostcopyPlacer placer)
    {
        _window = placer.CreateWindow();
        _assembler = placer.CreateAssembler();
    }

    /// <summary>True when the window must be flushed before another page.</summary>
    internal bool IsFull => _window.IsFull;

    /// <summary>Takes a target page; small ones are placed by the next flush.</summary>
    internal void Add(RamBlock block, long offset, nuint data)
    {
        if (block.PageSize.Bytes == HostPageAssembler.TargetPageBytes)
        {
            _window.Add(block, offset, data);
            return;
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
    }

    /// <summary>Places what is staged; the receive buffer may be reused afterwards.</summary>
    internal void Flush()
    {
        if (_window.Count != 0)
        {
            Check(_window.Flush());
        }
    }

    public void Dispose()
    {
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
