namespace Postcopy.Uffd;

/// <summary>What became of a fault message.</summary>
internal enum FaultTraceKind
{
    /// <summary>The page is missing and was asked for.</summary>
    Requested,

    /// <summary>It was asked for before: by another thread, or by an earlier message of the same fault.</summary>
    Duplicate,

    /// <summary>It had been received and waited for its turn: placed at once.</summary>
    Staged,

    /// <summary>It was placed between the message and our reading it.</summary>
    AlreadyReceived,

    /// <summary>It was thrown away by the guest, and is a page of zeros again.</summary>
    ZeroFilled,

    /// <summary>It cannot be given back now: the address space is changing, or memory is short.</summary>
    Parked,
}

/// <summary>
/// Faults on their way from the fault thread, which may not write events itself, to the control thread. One writer, one
/// reader, bounded; what does not fit is counted. It exists while somebody listens.
/// </summary>
internal sealed class FaultTrace
{
    // 100 ms between two looks of the control thread: 80 000 faults per second.
    private const int Capacity = 8192;

    private readonly Entry[] _entries = new Entry[Capacity];
    private long _written;
    private long _read;
    private long _dropped;

    private struct Entry
    {
        internal RamBlock Block;
        internal long Offset;
        internal long ReadAt;
        internal uint Thread;
        internal FaultTraceKind Kind;
    }

    /// <summary>Fault thread only; allocates nothing.</summary>
    internal void Add(RamBlock block, long page, uint thread, FaultTraceKind kind, long readAt)
    {
        long written = _written;

        // Acquire: what the reader has copied out may be overwritten. Partner of the release in Drain.
        if (written - Volatile.Read(ref _read) == Capacity)
        {
            Volatile.Write(ref _dropped, _dropped + 1);
            return;
        }

        ref Entry entry = ref _entries[written % Capacity];
        entry.Block = block;
        entry.Offset = page << block.PageSize.Shift;
        entry.ReadAt = readAt;
        entry.Thread = thread;
        entry.Kind = kind;

        // Release: the entry before its number. Partner of the acquire in Drain.
        Volatile.Write(ref _written, written + 1);
    }

    /// <summary>Control thread only: writes what is there as events.</summary>
    /// <param name="vm">The machine's name.</param>
    /// <param name="dropped">How many were reported as dropped before; brought up to date.</param>
    internal void Drain(string vm, ref long dropped)
    {
        long end = Volatile.Read(ref _written);
        for (long i = _read; i < end; i++)
        {
            Entry entry = _entries[i % Capacity];
            Volatile.Write(ref _read, i + 1);
            PostcopyEventSource.Log.Fault(vm, entry.Block.Name, entry.Offset, entry.Thread, entry.Kind.ToString(), entry.ReadAt);
        }

        long lost = Volatile.Read(ref _dropped);
        if (lost != dropped)
        {
            PostcopyEventSource.Log.FaultsDropped(vm, lost - dropped);
            dropped = lost;
        }
    }
}
