using System.Runtime.InteropServices;
using Postcopy.Uffd.Qemu.Interop;

namespace Postcopy.Uffd.Qemu;

/// <summary>
/// A fixed native window on the bytes of a channel. Page payloads are handed out as addresses inside it, so the kernel can
/// copy them into the guest from where the socket put them. Native because COPY's source must never be guest memory that may
/// be missing, and touched once so that no page of it is missing either (H30).
/// </summary>
/// <remarks>Addresses stay valid until the next <see cref="Fill"/>, which may move what is left to the front.</remarks>
internal sealed unsafe class ReceiveBuffer : IDisposable
{
    private const int Alignment = 4096;
    private readonly MigrationChannel _channel;
    private readonly int _capacity;
    private byte* _base;
    private int _start;
    private int _end;

    internal ReceiveBuffer(MigrationChannel channel, int capacity)
    {
        _channel = channel;
        _capacity = capacity;
        // SAFETY: freed in Dispose; the reader that owns the buffer is used by one thread at a time.
        _base = (byte*)NativeMemory.AlignedAlloc((nuint)capacity, Alignment);
        NativeMemory.Clear(_base, (nuint)capacity);
    }

    /// <summary>Bytes that are there and not consumed.</summary>
    internal int Available => _end - _start;

    /// <summary>Position of the next byte in the whole stream.</summary>
    internal long Offset { get; private set; }

    /// <summary>Address of the next byte.</summary>
    internal nuint Address => (nuint)(_base + _start);

    internal ReadOnlySpan<byte> Peek(int count)
    {
        System.Diagnostics.Debug.Assert(count <= Available);
        // SAFETY: count bytes from _start lie inside the window, see the assert; the span is used before the next Fill.
        return new ReadOnlySpan<byte>(_base + _start, count);
    }

    internal void Advance(int count)
    {
        System.Diagnostics.Debug.Assert(count <= Available);
        _start += count;
        Offset += count;
    }

    /// <summary>Waits until at least count bytes are available.</summary>
    /// <param name="count">At most the capacity.</param>
    /// <param name="section">For the error when the connection ends before that.</param>
    internal void Fill(int count, string? section)
    {
        System.Diagnostics.Debug.Assert(count <= _capacity);
        ObjectDisposedException.ThrowIf(_base is null, this);
        if (_start == _end)
        {
            _start = _end = 0;
        }
        else if (_start + count > _capacity || _start > _capacity / 2)
        {
            // SAFETY: both ranges lie inside the window; Buffer.MemoryCopy handles the overlap.
            Buffer.MemoryCopy(_base + _start, _base, _capacity, Available);
            _end -= _start;
            _start = 0;
        }

        while (Available < count)
        {
            // SAFETY: the rest of the window behind _end.
            int got = Receive(new Span<byte>(_base + _end, _capacity - _end), section);
            if (got == 0)
            {
                throw Ended(count, Available, section);
            }

            _end += got;
        }
    }

    /// <summary>Takes up to destination.Length bytes, first what is buffered, then from the channel; never 0.</summary>
    internal int Take(Span<byte> destination, string? section)
    {
        int count = Math.Min(Available, destination.Length);
        if (count > 0)
        {
            Peek(count).CopyTo(destination);
            Advance(count);
            return count;
        }

        int got = Receive(destination, section);
        if (got == 0)
        {
            throw Ended(destination.Length, 0, section);
        }

        Offset += got;
        return got;
    }

    /// <summary>True when the channel can receive to many places with one call.</summary>
    internal bool MayScatter => _channel.CanScatter;

    /// <summary>Receives to other places than the window, waiting for the first byte; never 0.</summary>
    internal int ReceiveInto(Libc.IoVector* vectors, int count, string? section)
    {
        ObjectDisposedException.ThrowIf(_base is null, this);
        int got;
        try
        {
            got = _channel.ReceiveScattered(vectors, count);
        }
        catch (MigrationConnectionException e)
        {
            throw Located(e, section);
        }

        return got == 0 ? throw Ended(Available + 1, Available, section) : got;
    }

    /// <summary>Puts other bytes in the place of what is there: the position in the stream stays that of the first.</summary>
    internal Span<byte> Replace(int count)
    {
        System.Diagnostics.Debug.Assert(count <= _capacity);
        (_start, _end) = (0, count);
        // SAFETY: count bytes lie inside the window, see the assert.
        return new Span<byte>(_base, count);
    }

    /// <summary>Bytes of the stream that were received elsewhere were consumed.</summary>
    internal void Skipped(int count) => Offset += count;

    /// <inheritdoc/>
    public void Dispose()
    {
        // SAFETY: allocated in the constructor; after this every use throws or has nothing available.
        NativeMemory.AlignedFree(_base);
        _base = null;
        _start = _end = 0;
    }

    private int Receive(Span<byte> into, string? section)
    {
        try
        {
            return _channel.Receive(into);
        }
        catch (MigrationConnectionException e)
        {
            throw Located(e, section);
        }
    }

    private MigrationConnectionException Located(MigrationConnectionException e, string? section) =>
        new(e.Reason, e.Message, e.Errno, e.InnerException)
        {
            StreamOffset = Offset + Available,
            Section = section,
        };

    private MigrationConnectionException Ended(int wanted, int there, string? section) =>
        new(ConnectionLossReason.ClosedByPeer,
            $"The peer closed the connection at byte {Offset + there}{(section is null ? "" : $" ({section})")}; {wanted - there} more bytes were due.")
        {
            StreamOffset = Offset + there,
            Section = section,
        };
}
