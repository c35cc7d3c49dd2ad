using System.Diagnostics;
using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd;

/// <summary>
/// The simplest transport: requests are queued, and threads of the host take them. Give it to
/// <see cref="PostcopyDestination.Listen"/>, take from it, and place what was fetched.
/// </summary>
/// <remarks>
/// <para>A bounded ring: the fault thread neither allocates nor waits; a full ring is <see cref="RequestOutcome.Busy"/>,
/// and the fault thread asks again. Any number of threads may take; each request goes to one of them.</para>
/// <para>A page is asked for once. A taker that cannot fetch it now keeps it and tries again, or pauses and resumes the
/// destination, which asks for everything that is open anew.</para>
/// </remarks>
public sealed class PageRequestQueue : IPageRequester, IDisposable
{
    private readonly PageRequest[] _items;
    private readonly WakeEvent _wake = new();
    private readonly Lock _takers = new();
    private long _head;
    private long _tail;

    /// <summary>Makes an empty queue.</summary>
    /// <param name="capacity">Requests that it holds, 1 to 1 048 576.</param>
    /// <exception cref="ArgumentOutOfRangeException">The capacity is out of its range.</exception>
    /// <exception cref="UffdException">No descriptor for its eventfd(2): raise RLIMIT_NOFILE.</exception>
    public PageRequestQueue(int capacity = 4096)
    {
        if (capacity is < 1 or > 1 << 20)
        {
            throw new ArgumentOutOfRangeException(nameof(capacity), capacity, "A request queue holds 1 to 1048576 requests.");
        }

        _items = new PageRequest[capacity];
    }

    /// <summary>Requests that nobody has taken yet.</summary>
    public int Count => (int)(Volatile.Read(ref _tail) - Volatile.Read(ref _head));

    /// <inheritdoc/>
    public RequestOutcome TryRequest(in PageRequest request)
    {
        // One producer, the fault thread. Acquire of head: the slot that is reused was read by its taker.
        long tail = _tail;
        if (tail - Volatile.Read(ref _head) == _items.Length)
        {
            return RequestOutcome.Busy;
        }

        _items[tail % _items.Length] = request;
        Volatile.Write(ref _tail, tail + 1);
        _wake.Signal();
        return RequestOutcome.Sent;
    }

    /// <summary>Takes the oldest request, if there is one.</summary>
    /// <param name="request">The request, or nothing.</param>
    public bool TryTake(out PageRequest request)
    {
        lock (_takers)
        {
            long head = _head;
            if (Volatile.Read(ref _tail) == head)
            {
                request = default;
                return false;
            }

            ref PageRequest item = ref _items[head % _items.Length];
            request = item;
            item = default;
            Volatile.Write(ref _head, head + 1);
            return true;
        }
    }

    /// <summary>Takes the oldest request; waits for one, without using a processor.</summary>
    /// <param name="timeout">How long at most; <see cref="Timeout.InfiniteTimeSpan"/> for ever.</param>
    /// <param name="request">The request, or nothing when the time is over.</param>
    public bool TryTake(TimeSpan timeout, out PageRequest request)
    {
        long start = Stopwatch.GetTimestamp();
        while (!TryTake(out request))
        {
            TimeSpan left = timeout == Timeout.InfiniteTimeSpan ? TimeSpan.FromHours(1) : timeout - Stopwatch.GetElapsedTime(start);
            if (left <= TimeSpan.Zero)
            {
                return false;
            }

            _wake.Wait(left);

            // The event is emptied before the ring is looked at: a request that comes in between signals anew. With
            // several takers one may empty it for another's request; whoever takes one passes the signal on.
            _wake.Drain();
        }

        if (Count > 0)
        {
            _wake.Signal();
        }

        return true;
    }

    /// <summary>Frees the event; nobody may be taking. The destination it was given to must have ended or been paused.</summary>
    public void Dispose() => _wake.Dispose();
}
