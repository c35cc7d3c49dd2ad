using System.Collections.Concurrent;
using System.Runtime.InteropServices;
using Postcopy.Uffd;

namespace Postcopy.Vmm.Tests;

/// <summary>A source without a wire: answers page requests from another machine's memory, each after a delay.</summary>
internal sealed unsafe class LocalSource : IPageRequester, IDisposable
{
    private const int PageBytes = 4096;

    private readonly BlockingCollection<PageRequest> _requests = [];
    private readonly GuestMemory _from;
    private readonly PostcopyPlacer _placer;
    private readonly TimeSpan _delay;
    private readonly ManualResetEventSlim _gate = new(initialState: true);
    private readonly ManualResetEventSlim _never = new(initialState: false);
    private readonly Thread _thread;

    internal LocalSource(GuestMemory from, PostcopyPlacer placer, TimeSpan delay = default)
    {
        _from = from;
        _placer = placer;
        _delay = delay;
        _thread = new Thread(Serve) { IsBackground = true };
        _thread.Start();
    }

    /// <summary>While it is closed nothing is answered.</summary>
    internal ManualResetEventSlim Gate => _gate;

    public RequestOutcome TryRequest(in PageRequest request)
    {
        _requests.Add(request);
        return RequestOutcome.Sent;
    }

    /// <summary>Sends all that is missing, behind the requests that are open.</summary>
    internal void SendRest(RamBlock block)
    {
        for (long page = 0; block.Received.TryFindNextClear(page, out page); page++)
        {
            _requests.Add(new PageRequest(block, page * PageBytes, PageBytes));
            if (page == block.PageCount - 1)
            {
                break;
            }
        }
    }

    public void Dispose()
    {
        _gate.Set();
        _requests.CompleteAdding();
        _thread.Join();
        _requests.Dispose();
        _gate.Dispose();
        _never.Dispose();
    }

    private void Serve()
    {
        byte* page = (byte*)NativeMemory.AlignedAlloc(PageBytes, PageBytes);
        foreach (PageRequest request in _requests.GetConsumingEnumerable())
        {
            _gate.Wait();
            if (_delay > TimeSpan.Zero)
            {
                // A slow network, made of a wait that nothing ends early.
                _ = _never.Wait(_delay);
            }

            _from.Read(request.Offset, new Span<byte>(page, PageBytes));
            _ = _placer.Place(request.Block, request.Offset, (nuint)page, PageBytes);
        }

        NativeMemory.AlignedFree(page);
    }
}
