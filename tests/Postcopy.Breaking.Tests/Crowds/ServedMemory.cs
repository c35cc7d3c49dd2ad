using Postcopy.Uffd;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Breaking.Tests;

/// <summary>A destination whose pages come from a thread of this process, with the content of the moment.</summary>
internal sealed unsafe class ServedMemory : IDisposable
{
    private readonly GuestMemory _memory;
    private readonly Thread _source;
    private readonly PageRequestQueue _requests = new();
    private readonly nuint _page = (nuint)System.Runtime.InteropServices.NativeMemory.AlignedAlloc(TestPages.Bytes, TestPages.Bytes);
    private readonly TimeSpan _delay;
    private bool _stop;
    private long _generation;
    private int _failures;

    internal ServedMemory(int pages, TimeSpan delay = default)
    {
        _delay = delay;
        _memory = GuestMemory.Allocate(new GuestMemoryOptions { Length = (long)pages * TestPages.Bytes });
        Destination = new PostcopyDestination(new PostcopyOptions { Open = Requires.AnyKind });
        Block = Destination.Blocks.Add(new RamBlockSpec { Name = "ram", Memory = _memory });
        Destination.Advise();
        Destination.Listen(_requests);
        Destination.Run();
        _source = new Thread(Serve) { IsBackground = true, Name = "source" };
        _source.Start();
    }

    internal PostcopyDestination Destination { get; }

    internal RamBlock Block { get; }

    internal nuint Address => _memory.Address;

    /// <summary>What pages that are placed from now on say: a memory that changes tells an old page from a new one.</summary>
    internal long Generation
    {
        get => Volatile.Read(ref _generation);
        set => Volatile.Write(ref _generation, value);
    }

    internal void FillExpected(int page, Span<byte> into) => TestPages.Fill($"generation {Generation}", page * (long)TestPages.Bytes, into);

    /// <summary>Ends it; throws when a page could not be placed.</summary>
    public void Dispose()
    {
        Volatile.Write(ref _stop, true);
        _source.Join();
        _requests.Dispose();
        _ = Destination.Placer.PlaceZero(Block, 0, Block.UsedLength);
        Destination.CloseAsync(MissingPagePolicy.Fail).AsTask().Wait(Receiver.Budget);
        _memory.Dispose();
        if (_failures > 0)
        {
            throw new InvalidDataException($"{_failures} pages could not be placed.");
        }
    }

    private void Serve()
    {
        while (!Volatile.Read(ref _stop))
        {
            if (!_requests.TryTake(TimeSpan.FromMilliseconds(10), out PageRequest request))
            {
                continue;
            }

            for (long offset = request.Offset; offset < request.Offset + request.Length; offset += TestPages.Bytes)
            {
                if (_delay > TimeSpan.Zero)
                {
                    Thread.Sleep(_delay);
                }

                FillExpected((int)(offset / TestPages.Bytes), new Span<byte>((void*)_page, TestPages.Bytes));
                _failures += Destination.Placer.Place(request.Block, offset, _page, TestPages.Bytes).IsReceived ? 0 : 1;
            }
        }
    }
}
