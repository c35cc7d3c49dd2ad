using System.Runtime.InteropServices;

namespace Postcopy.Uffd.Qemu;

/// <summary>
/// Puts the host pages of a resumed link together from target pages in any order and over all channels: QEMU may send the end
/// of one first and its beginning later (<see cref="HostPageSequence"/>). A host page is placed when all of it is here, and
/// stays missing until then. What is in parts when the link is lost is forgotten: the source sends it again.
/// </summary>
/// <remarks>
/// Used by the threads of all channels of the link. The lock is held while a target page is copied, between buffers that are
/// present, and never during a placement.
/// </remarks>
internal sealed unsafe class HostPageParts : IDisposable
{
    /// <summary>Each of two channels has one that it is in the middle of, and one whose beginning comes later.</summary>
    internal const int MostOpen = 4;

    private const int TargetPage = HostPageAssembler.TargetPageBytes;
    private readonly PostcopyPlacer _placer;
    private readonly Lock _lock = new();
    private readonly List<Part> _parts = [];

    /// <param name="placer">Where the pages go.</param>
    /// <param name="earlier">The lost link's; null when that was the first one.</param>
    internal HostPageParts(PostcopyPlacer placer, HostPageParts? earlier)
    {
        _placer = placer;
        EndsFirst = earlier?.EndsFirst ?? 0;
    }

    /// <summary>Host pages of which the end came before the beginning, on this link and the earlier ones.</summary>
    internal long EndsFirst { get; private set; }

    /// <summary>Takes a target page, zeros when data is 0. False: nothing was taken, more than <see cref="MostOpen"/> host pages would be in parts.</summary>
    /// <param name="block">Its block.</param>
    /// <param name="offset">Bytes from the block's start.</param>
    /// <param name="data">Its content in a buffer that is present.</param>
    /// <param name="placed">The placement when it was the last one of its host page; null otherwise.</param>
    internal bool TryAdd(RamBlock block, long offset, nuint data, out PlaceResult? placed)
    {
        placed = null;
        long start = block.PageSize.AlignDown(offset);
        if (block.Received.Test(block.PageSize.IndexOf(start)))
        {
            // The rest of a page that came whole by its parts, or again.
            return true;
        }

        Part? part;
        lock (_lock)
        {
            part = _parts.Find(p => p.Block == block && p.Start == start) ?? Open(block, start, offset);
            if (part is null)
            {
                return false;
            }

            part.Fill(offset - start, data);
            if (!part.IsComplete)
            {
                return true;
            }

            part.IsPlacing = true;
        }

        placed = part.IsZero
            ? _placer.PlaceZero(block, start, block.PageSize.Bytes)
            : _placer.Place(block, start, part.Buffer, block.PageSize.Bytes);
        Close(part);
        return true;
    }

    /// <summary>Forgets what there is of a host page.</summary>
    internal void Forget(RamBlock block, long start)
    {
        lock (_lock)
        {
            _parts.Find(p => p.Block == block && p.Start == start && !p.IsPlacing)?.Close();
        }
    }

    /// <summary>Frees the buffers. No thread may use it any more.</summary>
    public void Dispose()
    {
        foreach (Part part in _parts)
        {
            part.Free();
        }

        _parts.Clear();
    }

    private Part? Open(RamBlock block, long start, long offset)
    {
        Part? free = _parts.Find(p => p.Block is null);
        if (free is null)
        {
            if (_parts.Count == MostOpen)
            {
                return null;
            }

            _parts.Add(free = new Part());
        }

        free.Open(block, start);
        EndsFirst += offset == start ? 0 : 1;
        return free;
    }

    private void Close(Part part)
    {
        lock (_lock)
        {
            part.Close();
        }
    }

    private sealed class Part
    {
        private ulong[] _present = [];
        private long _capacity;
        private int _missing;

        internal RamBlock? Block { get; private set; }

        internal long Start { get; private set; }

        internal nuint Buffer { get; private set; }

        internal bool IsZero { get; private set; }

        /// <summary>The kernel reads the buffer; what comes of this page now is a repetition.</summary>
        internal bool IsPlacing { get; set; }

        internal bool IsComplete => _missing == 0 && !IsPlacing;

        internal void Open(RamBlock block, long start)
        {
            long bytes = block.PageSize.Bytes;
            if (_capacity < bytes)
            {
                Free();
                // SAFETY: freed by Free, which the owner's Dispose calls.
                Buffer = (nuint)NativeMemory.AlignedAlloc((nuint)bytes, TargetPage);
                _capacity = bytes;
            }

            Block = block;
            Start = start;
            IsZero = true;
            IsPlacing = false;
            _missing = (int)(bytes / TargetPage);
            Array.Resize(ref _present, (_missing + 63) / 64);
            Array.Clear(_present);
        }

        internal void Fill(long at, nuint data)
        {
            if (IsPlacing)
            {
                return;
            }

            // SAFETY: at is a target page inside the host page, and the buffer holds a host page.
            Span<byte> into = new((void*)(Buffer + (nuint)at), TargetPage);
            if (data == 0)
            {
                into.Clear();
            }
            else
            {
                // SAFETY: the caller gives a target page of the receive buffer.
                ReadOnlySpan<byte> from = new((void*)data, TargetPage);
                from.CopyTo(into);
                IsZero = IsZero && from.IndexOfAnyExcept((byte)0) < 0;
            }

            int number = (int)(at / TargetPage);
            ulong bit = 1UL << (number % 64);
            ref ulong word = ref _present[number / 64];
            _missing -= (word & bit) == 0 ? 1 : 0;
            word |= bit;
        }

        internal void Close() => Block = null;

        internal void Free()
        {
            // SAFETY: allocated in Open, or 0.
            NativeMemory.AlignedFree((void*)Buffer);
            (Buffer, _capacity, Block) = (0, 0, null);
        }
    }
}
