namespace Postcopy.Uffd;

/// <summary>
/// A bounded ring of page requests: from threads that prefetch to the fault thread. The spin lock covers a few stores;
/// nobody allocates, blocks or touches guest memory in it, and the fault thread only ever tries it.
/// </summary>
internal sealed class RequestRing
{
    private readonly PageRequest[] _items;
    private int _lock;
    private long _head;
    private long _tail;

    internal RequestRing(int capacity) => _items = new PageRequest[capacity];

    /// <summary>True when something is inside; a hint.</summary>
    internal bool HasItems => Volatile.Read(ref _tail) != Volatile.Read(ref _head);

    internal bool TryEnqueue(in PageRequest request)
    {
        SpinWait spin = default;
        while (Interlocked.CompareExchange(ref _lock, 1, 0) != 0)
        {
            spin.SpinOnce(sleep1Threshold: -1);
        }

        bool room = _tail - _head < _items.Length;
        if (room)
        {
            _items[_tail % _items.Length] = request;
            Volatile.Write(ref _tail, _tail + 1);
        }

        Volatile.Write(ref _lock, 0);
        return room;
    }

    /// <summary>The oldest request, left inside; false also when another thread is just adding one.</summary>
    internal bool TryPeek(out PageRequest request)
    {
        request = default;
        if (!HasItems || Interlocked.CompareExchange(ref _lock, 1, 0) != 0)
        {
            return false;
        }

        bool any = _tail != _head;
        if (any)
        {
            request = _items[_head % _items.Length];
        }

        Volatile.Write(ref _lock, 0);
        return any;
    }

    /// <summary>Drops the oldest; only the one consumer calls it, after a peek.</summary>
    internal void Drop() => Volatile.Write(ref _head, _head + 1);
}
