using System.Diagnostics;
using Postcopy.Destination;
using Postcopy.Uffd;

namespace LazySnapshot;

/// <summary>
/// Restores an image while its guest runs: missing pages are fetched from the store with what lies around them, a
/// recorded working set is fetched ahead, and the rest follows in the background. While the store is gone, vCPUs wait;
/// every fetch is tried again until it succeeds.
/// </summary>
internal sealed class Restore : IAsyncDisposable
{
    private const int BackgroundBytes = 256 << 10;

    private static readonly TimeSpan s_look = TimeSpan.FromMilliseconds(200);
    private static readonly TimeSpan s_longestPause = TimeSpan.FromSeconds(1);

    private readonly IPageStore _store;
    private readonly RestoreOptions _options;
    private readonly TextWriter _log;
    private readonly GuestMemory _memory;
    private readonly GuestThreads _guest;
    private readonly TaskCompletionSource _failed = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly PostcopyDestination _destination = new(new PostcopyOptions { Blocktime = new BlocktimeOptions() });
    private readonly PageRequestQueue _requests = new();
    private readonly RamBlock _ram;
    private readonly List<Thread> _threads = [];

    // A page belongs to the first that claims it: it fetches it, however long that takes.
    private readonly PageBitmap _claimed;
    private readonly WorkingSet _touched = new();
    private readonly WorkingSet? _replay;
    private long _readAhead;
    private long _retries;
    private int _storeIsGone;
    private volatile bool _stop;

    internal Restore(IPageStore store, RestoreOptions options, TextWriter log)
    {
        _store = store;
        _options = options;
        _log = log;
        _replay = options.Replay is { } path ? WorkingSet.Load(path, store.Length, PageSize.Host.Bytes) : null;
        _memory = GuestMemory.Allocate(new GuestMemoryOptions { Length = store.Length });
        _ram = _destination.Blocks.Add(new RamBlockSpec { Name = "snapshot", Memory = _memory });
        _claimed = new PageBitmap(_ram.PageCount);
        _guest = new GuestThreads(_memory, _destination.Blocktime!, options);
    }

    internal async Task<RestoreReport> RunAsync(CancellationToken cancellation)
    {
        long start = Stopwatch.GetTimestamp();
        _destination.Advise();
        _destination.Listen(_requests);
        _destination.Run();
        for (int i = 0; i < _options.Fetchers; i++)
        {
            Start($"fetch {i}", Fetch);
        }

        // Ahead of the vCPUs, not after them: they are started at once, and find what is there already.
        if (_replay is not null)
        {
            Start("replay", Replay);
        }

        await await Task.WhenAny(_guest.RunAsync().WaitAsync(cancellation), _failed.Task);
        TimeSpan touched = Stopwatch.GetElapsedTime(start);
        BlocktimeReport blocktime = _destination.Blocktime!.Snapshot();
        FaultStatistics faults = _destination.Faults;
        long presentBytes = _ram.UsedLength - (_ram.MissingPages << _ram.PageSize.Shift);
        if (_options.Record is { } record)
        {
            _touched.Save(record);
        }

        if (_options.Fill)
        {
            Start("fill", Fill);
            await await Task.WhenAny(_destination.CompleteAsync(cancellationToken: cancellation), _failed.Task);
            if (_options.HashFile is { } path)
            {
                await File.WriteAllTextAsync(path, $"{Convert.ToHexStringLower(_ram.ComputeSha256())}  {_ram.Name}\n", cancellation);
            }
        }

        return new RestoreReport
        {
            ImageBytes = _store.Length,
            Touched = touched,
            Total = Stopwatch.GetElapsedTime(start),
            Touches = _guest.Touches,
            WrongTouches = _guest.Wrong,
            Requests = faults.Requests,
            ReadAheadPages = Volatile.Read(ref _readAhead),
            PresentBytes = presentBytes,
            Retries = Volatile.Read(ref _retries),
            StoodStill = TimeSpan.FromMicroseconds(blocktime.TotalNanoseconds / 1000.0),
            PerVcpu = [.. blocktime.Vcpus.Select(v => TimeSpan.FromMicroseconds(v.BlocktimeNanoseconds / 1000.0))],
            Complete = _ram.MissingPages == 0,
        };
    }

    public async ValueTask DisposeAsync()
    {
        _stop = true;
        foreach (Thread thread in _threads)
        {
            thread.Join();
        }

        // Whoever touched a missing page later would be told by SIGBUS, not by zeros; who waits for one goes on waiting.
        await _destination.CloseAsync(_guest.HasEnded ? MissingPagePolicy.Poison : MissingPagePolicy.KeepWaiting);
        _requests.Dispose();
        _claimed.Dispose();
        _memory.Dispose();
    }

    private void Start(string name, Action main)
    {
        Thread thread = new(() => Guarded(main)) { IsBackground = true, Name = name };
        _threads.Add(thread);
        thread.Start();
    }

    private void Guarded(Action main)
    {
        try
        {
            main();
        }
        catch (Exception e)
        {
            // A thread that dies takes its claims along: the restore has failed, and says why.
            _ = _failed.TrySetException(e);
        }
    }

    /// <summary>Pages that vCPUs wait for, then their neighbourhood.</summary>
    private void Fetch()
    {
        byte[] buffer = Buffer(_options.Readahead);
        while (!_stop)
        {
            if (_requests.TryTake(s_look, out PageRequest request))
            {
                long first = request.Offset & ~((long)_options.Readahead - 1);
                long end = Math.Min(first + _options.Readahead, _ram.UsedLength);
                _touched.Add(request.Offset, request.Length);
                if (!_claimed.TestAndSet(_ram.PageSize.IndexOf(request.Offset)))
                {
                    FetchRun(request.Offset, buffer.AsMemory(0, (int)(ClaimOn(request.Offset, end) - request.Offset)));
                }

                FetchAhead(first, end, buffer);
            }
        }
    }

    private void Replay()
    {
        byte[] buffer = Buffer(BackgroundBytes);
        foreach ((long offset, long length) in _replay!.Runs)
        {
            FetchAhead(offset, offset + length, buffer);
        }
    }

    private void Fill() => FetchAhead(0, _ram.UsedLength, Buffer(BackgroundBytes));

    /// <summary>Fetches what nobody has claimed, in runs as long as the buffer.</summary>
    private void FetchAhead(long from, long to, byte[] buffer)
    {
        for (long at = from; at < to && !_stop;)
        {
            if (_claimed.TestAndSet(_ram.PageSize.IndexOf(at)))
            {
                at += _ram.PageSize.Bytes;
                continue;
            }

            long end = ClaimOn(at, Math.Min(to, at + buffer.Length));
            FetchRun(at, buffer.AsMemory(0, (int)(end - at)));
            _ = Interlocked.Add(ref _readAhead, (end - at) >> _ram.PageSize.Shift);
            at = end;
        }
    }

    /// <summary>Claims the free pages that follow a claimed one; where they end.</summary>
    private long ClaimOn(long claimed, long to)
    {
        long end = claimed + _ram.PageSize.Bytes;
        while (end < to && !_claimed.TestAndSet(_ram.PageSize.IndexOf(end)))
        {
            end += _ram.PageSize.Bytes;
        }

        return end;
    }

    /// <summary>Fetches until it succeeds: vCPUs wait meanwhile, and nothing is lost.</summary>
    private void FetchRun(long offset, Memory<byte> into)
    {
        TimeSpan pause = TimeSpan.FromMilliseconds(20);
        while (!_stop)
        {
            try
            {
                _store.ReadAsync(offset, into).AsTask().GetAwaiter().GetResult();
                if (Interlocked.Exchange(ref _storeIsGone, 0) != 0)
                {
                    _log.WriteLine("the store is back");
                }

                Place(offset, into);
                return;
            }
            catch (PageStoreException e)
            {
                _ = Interlocked.Increment(ref _retries);
                if (Interlocked.Exchange(ref _storeIsGone, 1) == 0)
                {
                    _log.WriteLine($"the store does not answer, vCPUs that need it wait: {e.Message}");
                }

                // Nothing tells when a store is back.
                using ManualResetEventSlim never = new();
                _ = never.Wait(pause);
                pause = pause * 2 < s_longestPause ? pause * 2 : s_longestPause;
            }
        }
    }

    /// <summary>Runs of zeros by one operation, what lies between by another.</summary>
    private unsafe void Place(long offset, Memory<byte> content)
    {
        using System.Buffers.MemoryHandle pinned = content.Pin();
        int page = (int)_ram.PageSize.Bytes;
        for (int at = 0; at < content.Length;)
        {
            bool zero = IsZero(content.Span.Slice(at, page));
            int end = at + page;
            while (end < content.Length && IsZero(content.Span.Slice(end, page)) == zero)
            {
                end += page;
            }

            PlaceResult result = zero
                ? _destination.Placer.PlaceZero(_ram, offset + at, end - at)
                : _destination.Placer.Place(_ram, offset + at, (nuint)pinned.Pointer + (nuint)at, end - at);
            if (!result.IsReceived)
            {
                throw new InvalidOperationException($"The pages could not be placed: {result}.");
            }

            at = end;
        }
    }

    private static bool IsZero(ReadOnlySpan<byte> page) => !page.ContainsAnyExcept((byte)0);

    private static byte[] Buffer(int bytes) => GC.AllocateUninitializedArray<byte>(bytes, pinned: true);
}
