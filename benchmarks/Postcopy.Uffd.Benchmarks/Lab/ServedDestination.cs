namespace Postcopy.Uffd.Benchmarks.Lab;

/// <summary>
/// A destination of ours whose pages are at hand: the requester places what is asked for, on the fault thread, as the
/// C baseline does. Bitmaps and blocktime are on.
/// </summary>
internal sealed class ServedDestination : IPageRequester, IDisposable
{
    private readonly GuestMemory _memory;
    private readonly nuint _page;
    private readonly bool _countAllocations;

    internal ServedDestination(long bytes, nuint page, FaultReaderOptions? reader = null, bool pinned = true, bool countAllocations = false, int blocks = 1)
    {
        _countAllocations = countAllocations;
        _page = page;
        _memory = GuestMemory.Allocate(new GuestMemoryOptions { Length = bytes });
        Destination = new PostcopyDestination(new PostcopyOptions
        {
            Blocktime = new BlocktimeOptions(),
            FaultReader = reader ?? new FaultReaderOptions(),
        });
        for (int i = 0; i < blocks; i++)
        {
            long length = bytes / blocks;
            _ = Destination.Blocks.Add(new RamBlockSpec { Name = i == 0 ? "pc.ram" : $"block {i}", Memory = _memory, MemoryOffset = i * length, UsedLength = length });
        }

        Destination.Advise();
        Destination.Listen(this);
        Destination.Run();
        _ = Destination.Blocktime!.AddVcpu(HostThread.CurrentId);
        FaultThread = ThreadTime.Find("postcopy-fault");
        if (pinned)
        {
            Affinity.Pin(FaultThread, Affinity.Handler);
        }
    }

    internal PostcopyDestination Destination { get; }

    internal RamBlock Block => Destination.Blocks.Blocks[0];

    /// <summary>The kernel's id of its fault thread: one such destination at a time.</summary>
    internal int FaultThread { get; }

    internal PostcopyPlacer Placer => Destination.Placer;

    internal nuint Address => _memory.Address;

    internal long Bytes => _memory.Length;

    /// <summary>Places that failed; read after the touches.</summary>
    internal long Failures { get; private set; }

    /// <summary>Bytes allocated by the fault thread up to the last fault it served.</summary>
    internal long AllocatedOnFaultThread { get; private set; }

    public RequestOutcome TryRequest(in PageRequest request)
    {
        if (!Destination.Placer.Place(request.Block, request.Offset, _page, request.Length).IsReceived)
        {
            Failures++;
        }

        if (_countAllocations)
        {
            AllocatedOnFaultThread = GC.GetAllocatedBytesForCurrentThread();
        }

        return RequestOutcome.Sent;
    }

    internal void Discard()
    {
        foreach (RamBlock block in Destination.Blocks.Blocks)
        {
            block.Discard(new PageRange(0, block.UsedLength));
        }
    }

    public void Dispose()
    {
        foreach (RamBlock block in Destination.Blocks.Blocks)
        {
            _ = Destination.Placer.PlaceZero(block, 0, block.UsedLength);
        }

        Destination.CloseAsync(MissingPagePolicy.Fail).AsTask().Wait();
        _memory.Dispose();
        if (Failures > 0)
        {
            throw new LabException($"{Failures} pages could not be placed on the fault thread.");
        }
    }
}
