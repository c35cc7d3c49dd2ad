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
    private readonly Thread _thread;

    internal LocalSource(GuestMemory from, PostcopyPlacer placer)
    {
        _from = from;
        _placer = placer;
        _thread = new Thread(Serve) { IsBackground = true };
        _thread.Start();
    }

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
        _requests.CompleteAdding();
        _thread.Join();
        _requests.Dispose();
    }

    private void Serve()
    {
        byte* page = (byte*)NativeMemory.AlignedAlloc(PageBytes, PageBytes);
        foreach (PageRequest request in _requests.GetConsumingEnumerable())
        {
            _from.Read(request.Offset, new Span<byte>(page, PageBytes));
            _ = _placer.Place(request.Block, request.Offset, (nuint)page, PageBytes);
        }

        NativeMemory.AlignedFree(page);
    }
}
