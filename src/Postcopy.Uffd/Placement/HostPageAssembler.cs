using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd;

/// <summary>
/// Puts the target pages of a stream (4 KiB) together into host pages, and places each when it is complete: a huge
/// page of 2 MiB arrives as 512 consecutive records (qemu-wire.md 2.4). Where both are the same size a page goes
/// straight from the receive buffer into the guest.
/// </summary>
/// <remarks>
/// One per channel: with postcopy-preempt a huge page can be half-way on the main channel while another arrives on
/// the urgent one. Not thread-safe. The buffer is native memory of one host page, kept for the next one.
/// </remarks>
public sealed class HostPageAssembler : IDisposable
{
    private readonly PostcopyPlacer _placer;
    private nuint _buffer;
    private long _capacity;
    private RamBlock? _block;
    private long _pageStart;
    private long _filled;
    private long _dirty;
    private bool _allZero;

    internal HostPageAssembler(PostcopyPlacer placer) => _placer = placer;

    /// <summary>Unmaps the buffer when it was not disposed.</summary>
    ~HostPageAssembler() => Release();

    /// <summary>Bytes of a target page.</summary>
    public const int TargetPageBytes = 4096;

    /// <summary>True when a host page is partly there.</summary>
    public bool IsPartial => _block is not null;

    /// <summary>The next target page of the stream.</summary>
    /// <param name="block">An attached block.</param>
    /// <param name="offset">Bytes from its start, a multiple of 4096.</param>
    /// <param name="source">Its 4096 bytes. Safety: as for <see cref="PostcopyPlacer.Place"/>.</param>
    /// <param name="result">The placement, when the host page is complete.</param>
    /// <returns>Placed when <paramref name="result"/> is valid; Incomplete; or OutOfSequence, with nothing taken.</returns>
    public AssemblyOutcome Add(RamBlock block, long offset, nuint source, out PlaceResult result)
    {
        ArgumentNullException.ThrowIfNull(block);
        if (block.PageSize.Bytes == TargetPageBytes)
        {
            result = _placer.Place(block, offset, source, TargetPageBytes);
            return AssemblyOutcome.Placed;
        }

        if (!Accept(block, offset))
        {
            result = default;
            return AssemblyOutcome.OutOfSequence;
        }

        _allZero = _allZero && IsZero(source);
        _ = Libc.memcpy(_buffer + (nuint)_filled, source, TargetPageBytes);
        _dirty = Math.Max(_dirty, _filled + TargetPageBytes);
        return Advance(out result);
    }

    /// <summary>The next target page of the stream, all zeros.</summary>
    /// <param name="block">An attached block.</param>
    /// <param name="offset">Bytes from its start, a multiple of 4096.</param>
    /// <param name="result">The placement, when the host page is complete.</param>
    /// <returns>As for <see cref="Add"/>.</returns>
    public AssemblyOutcome AddZero(RamBlock block, long offset, out PlaceResult result)
    {
        ArgumentNullException.ThrowIfNull(block);
        if (block.PageSize.Bytes == TargetPageBytes)
        {
            result = _placer.PlaceZero(block, offset, TargetPageBytes);
            return AssemblyOutcome.Placed;
        }

        if (!Accept(block, offset))
        {
            result = default;
            return AssemblyOutcome.OutOfSequence;
        }

        // The buffer once held another guest page: what is written over must really be zero (hazard H41).
        if (_filled < _dirty)
        {
            _ = Libc.memset(_buffer + (nuint)_filled, 0, TargetPageBytes);
        }

        return Advance(out result);
    }

    /// <summary>Forgets a partial page: after a reconnect the source begins it again.</summary>
    public void Reset() => _block = null;

    /// <summary>Frees the buffer.</summary>
    public void Dispose()
    {
        Release();
        GC.SuppressFinalize(this);
    }

    private bool Accept(RamBlock block, long offset)
    {
        if (offset < 0 || offset > block.UsedLength - TargetPageBytes || (offset & (TargetPageBytes - 1)) != 0)
        {
            return false;
        }

        if (_block is not null)
        {
            return block == _block && offset == _pageStart + _filled;
        }

        if (!block.PageSize.IsAligned(offset))
        {
            return false;
        }

        Reserve(block.PageSize.Bytes);
        _block = block;
        _pageStart = offset;
        _filled = 0;
        _allZero = true;
        return true;
    }

    private AssemblyOutcome Advance(out PlaceResult result)
    {
        RamBlock block = _block!;
        _filled += TargetPageBytes;
        if (_filled < block.PageSize.Bytes)
        {
            result = default;
            return AssemblyOutcome.Incomplete;
        }

        _block = null;
        result = _allZero
            ? _placer.PlaceZero(block, _pageStart, _filled)
            : _placer.Place(block, _pageStart, _buffer, _filled);

        // The finalizer unmaps the buffer that the kernel was just copying from.
        GC.KeepAlive(this);
        return AssemblyOutcome.Placed;
    }

    private static unsafe bool IsZero(nuint source)
    {
        // SAFETY: the caller guarantees 4096 readable bytes of native memory that is not guest memory.
        return new ReadOnlySpan<byte>((void*)source, TargetPageBytes).IndexOfAnyExcept((byte)0) < 0;
    }

    private void Reserve(long bytes)
    {
        if (_capacity < bytes)
        {
            Release();
            _buffer = NativeZeroMemory.Map((nuint)bytes);
            _capacity = bytes;
            _dirty = 0;
        }
    }

    private void Release()
    {
        if (_capacity != 0)
        {
            NativeZeroMemory.Unmap(_buffer, (nuint)_capacity);
            _capacity = 0;
        }
    }
}
