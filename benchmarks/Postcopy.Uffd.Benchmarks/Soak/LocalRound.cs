using System.Diagnostics;
using Postcopy.Uffd.Benchmarks.Lab;

namespace Postcopy.Uffd.Benchmarks.Soak;

/// <summary>
/// vCPU threads read pages, throw them away and read them again with other content, while the source that answers them is lost and replaced.
/// The source answers on the fault thread, which is the fastest, or from a thread of its own, which is the usual.
/// </summary>
internal sealed class LocalRound : IPageRequester, IDisposable
{
    private const int Pages = 16384;
    private const int PagesOfABatch = 64;

    private readonly SoakCounters _counters;
    private readonly GuestMemory _memory;
    private readonly PostcopyDestination _destination;
    private readonly RamBlock _block;
    private readonly NativeBuffer<byte> _faultThreads = new(SoakContent.PageBytes);
    private readonly NativeBuffer<byte> _sources = new(SoakContent.PageBytes);

    // Written only while none of its pages is missing, by the thread that owns the batch.
    private readonly long[] _generations = new long[Pages / PagesOfABatch];
    private readonly bool _queued;
    private PageRequestQueue? _queue;
    private long _unplaced;
    private bool _stop;
    private bool _served;

    internal LocalRound(SoakCounters counters, GuestMemoryKind kind, bool queued)
    {
        _counters = counters;
        _queued = queued;
        _memory = GuestMemory.Allocate(new GuestMemoryOptions { Kind = kind, Length = (long)Pages * SoakContent.PageBytes });
        _destination = new PostcopyDestination(new PostcopyOptions { Blocktime = new BlocktimeOptions() });
        _block = _destination.Blocks.Add(new RamBlockSpec { Name = "ram", Memory = _memory });
        counters.Begin(_destination);
        _destination.Advise();
        _destination.Listen(NewSource());
        _destination.Run();
    }

    internal void Run(TimeSpan time, int vcpus, Random random)
    {
        long start = Stopwatch.GetTimestamp();
        Thread[] threads = [.. Enumerable.Range(0, vcpus).Select(i => new Thread(() => Vcpu(i, vcpus, random.Next())) { IsBackground = true, Name = $"vcpu {i}" })];
        Thread source = new(Serve) { IsBackground = true, Name = "source" };
        source.Start();
        Array.ForEach(threads, t => t.Start());
        while (Stopwatch.GetElapsedTime(start) < time)
        {
            Thread.Sleep(100 + random.Next(400));
            _destination.Pause("the soak takes the source away");
            Thread.Sleep(random.Next(5));
            _destination.Resume(NewSource());
            _counters.Recoveries++;
        }

        Volatile.Write(ref _stop, true);
        Array.ForEach(threads, t => t.Join());
        Volatile.Write(ref _served, true);
        source.Join();
        if (_unplaced > 0)
        {
            throw new LabException($"{_unplaced} pages could not be placed.");
        }
    }

    public RequestOutcome TryRequest(in PageRequest request)
    {
        Place(request, _faultThreads);
        return RequestOutcome.Sent;
    }

    public void Dispose()
    {
        _ = _destination.Placer.PlaceZero(_block, 0, _block.UsedLength);
        _counters.End();
        _destination.CloseAsync(MissingPagePolicy.Fail).AsTask().Wait();
        _memory.Dispose();
        _faultThreads.Dispose();
        _sources.Dispose();
    }

    private IPageRequester NewSource()
    {
        if (!_queued)
        {
            return this;
        }

        PageRequestQueue queue = new();
        Volatile.Write(ref _queue, queue);
        return queue;
    }

    private void Serve()
    {
        while (!Volatile.Read(ref _served))
        {
            if (!_queued)
            {
                Thread.Sleep(10);
            }
            else if (Volatile.Read(ref _queue)!.TryTake(TimeSpan.FromMilliseconds(2), out PageRequest request))
            {
                Place(request, _sources);
            }
        }
    }

    private void Place(in PageRequest request, NativeBuffer<byte> room)
    {
        for (long offset = request.Offset; offset < request.Offset + request.Length; offset += SoakContent.PageBytes)
        {
            long page = offset / SoakContent.PageBytes;
            SoakContent.Fill(page, Volatile.Read(ref _generations[page / PagesOfABatch]), room.Span);
            if (!_destination.Placer.Place(request.Block, offset, room.Address, SoakContent.PageBytes).IsReceived)
            {
                _ = Interlocked.Increment(ref _unplaced);
            }
        }
    }

    private void Vcpu(int number, int vcpus, int seed)
    {
        _ = _destination.Blocktime!.AddVcpu(HostThread.CurrentId);
        Random random = new(seed);
        byte[] room = new byte[SoakContent.PageBytes];
        int[] order = [.. Enumerable.Range(0, PagesOfABatch)];
        while (!Volatile.Read(ref _stop))
        {
            // A batch of one's own: nobody else throws it away.
            int batch = (random.Next(_generations.Length / vcpus) * vcpus) + number;
            long first = (long)batch * PagesOfABatch;
            random.Shuffle(order);
            foreach (int i in order)
            {
                long began = Stopwatch.GetTimestamp();
                _counters.Note(SoakContent.IsRight(_block, first + i, _generations[batch], room), began);
            }

            Volatile.Write(ref _generations[batch], _generations[batch] + 1);
            _block.Discard(new PageRange(first * SoakContent.PageBytes, PagesOfABatch * SoakContent.PageBytes));
            _ = Interlocked.Increment(ref _counters.Discards);
            _ = Interlocked.Add(ref _counters.PagesDiscarded, PagesOfABatch);
        }
    }
}
