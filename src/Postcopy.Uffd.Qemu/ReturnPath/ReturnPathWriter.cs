using System.Buffers.Binary;
using Postcopy.Uffd.Qemu.Interop;

namespace Postcopy.Uffd.Qemu;

/// <summary>The destination's messages to the source, whole and in order whichever thread they come from.</summary>
/// <remarks>
/// Implementation notes. Every message goes through one ring; who has queued one then tries to become the sender of the
/// moment (<c>_sending</c>, taken by one compare-exchange and never waited for) and sends what the socket takes without
/// waiting. So a page request is in the socket when <see cref="TryRequestPages"/> returns, in one system call, unless the
/// socket is full or another thread is in the middle: then the message stays queued, and that thread or the writer's own
/// thread sends it. Only that thread waits for the socket, and only it sends bitmaps and TLS.
/// <see cref="TryRequestPages"/> is for the fault thread: it allocates nothing, takes no lock and never waits. The other
/// members are for the control side. After a broken connection a new writer belongs to the new connection.
/// </remarks>
public sealed partial class ReturnPathWriter : IDisposable
{
    private const int HeaderLength = 2 * sizeof(ushort);
    private const int MinCapacity = 16;
    private readonly MigrationChannel _channel;
    private readonly MessageRing _ring;
    private readonly int _capacity;
    private readonly EventFd _wake = new();
    private readonly ManualResetEventSlim _progress = new();
    private readonly Thread _thread;
    private int _sending;
    private int _sentOfHead;
    private MigrationConnectionException? _failure;
    private long _requests;
    private volatile bool _broken;
    private volatile bool _stopping;
    private bool _disposed;

    /// <summary>Writes to a connection.</summary>
    /// <param name="channel">The main connection; it stays the caller's to dispose, after the writer.</param>
    /// <param name="capacity">Messages that can wait for the socket, a power of two; about 300 bytes each.</param>
    /// <exception cref="ArgumentOutOfRangeException">The capacity is no power of two, or less than 16.</exception>
    public ReturnPathWriter(MigrationChannel channel, int capacity = 1024)
    {
        ArgumentNullException.ThrowIfNull(channel);
        ArgumentOutOfRangeException.ThrowIfLessThan(capacity, MinCapacity);
        if (!System.Numerics.BitOperations.IsPow2(capacity))
        {
            throw new ArgumentOutOfRangeException(nameof(capacity), capacity, "A power of two, for example 1024.");
        }

        _channel = channel;
        _capacity = capacity;
        _ring = new MessageRing(capacity);
        _thread = new Thread(SendLoop) { IsBackground = true, Name = "postcopy-return" };
        _thread.UnsafeStart();
    }

    /// <summary>True once a message could not be sent: nothing more goes out on this connection.</summary>
    public bool IsBroken => _broken;

    /// <summary>Page requests queued or sent so far.</summary>
    public long Requests => Volatile.Read(ref _requests);

    /// <summary>Asks for pages. For the fault thread: does not wait, allocate or throw.</summary>
    /// <param name="block">A block of the source's list.</param>
    /// <param name="offset">A multiple of the block's page size.</param>
    /// <param name="length">A multiple of the block's page size; a bad request would pause the source for good.</param>
    public ReturnPathOutcome TryRequestPages(StreamRamBlock block, long offset, long length)
    {
        if (_broken || _stopping)
        {
            return ReturnPathOutcome.Disconnected;
        }

        System.Diagnostics.Debug.Assert(((offset | length) & (block.PageSize - 1)) == 0 && length is > 0 and <= uint.MaxValue);
        System.Diagnostics.Debug.Assert(offset >= 0 && offset + length <= block.Length);
        Span<byte> message = stackalloc byte[MessageRing.MaxMessage];
        if (!_ring.TryEnqueue(message[..WritePages(message, ReturnPathMessageType.ReqPagesId, block, offset, length)]))
        {
            return ReturnPathOutcome.Busy;
        }

        Interlocked.Increment(ref _requests);
        SendQueued(mayWait: false);
        return _broken ? ReturnPathOutcome.Disconnected : ReturnPathOutcome.Sent;
    }

    /// <summary>Asks a source that sends checksums for pages that arrived damaged. QEMU does not know this message.</summary>
    /// <param name="block">A block of the source's list.</param>
    /// <param name="offset">A multiple of the block's page size.</param>
    /// <param name="length">A multiple of the block's page size.</param>
    /// <exception cref="MigrationConnectionException">The connection is lost.</exception>
    public void ResendPages(StreamRamBlock block, long offset, long length)
    {
        ArgumentNullException.ThrowIfNull(block);
        Span<byte> message = stackalloc byte[MessageRing.MaxMessage];
        Enqueue(message[..WritePages(message, ReturnPathMessageType.ResendPagesId, block, offset, length)]);
    }

    /// <summary>Answers a PING.</summary>
    /// <param name="value">The PING's value.</param>
    /// <exception cref="MigrationConnectionException">The connection is lost.</exception>
    public void Pong(uint value) => SendNumber(ReturnPathMessageType.Pong, value);

    /// <summary>Answers POSTCOPY_RESUME: the source goes on.</summary>
    /// <exception cref="MigrationConnectionException">The connection is lost.</exception>
    public void ResumeAck() => SendNumber(ReturnPathMessageType.ResumeAck, QemuWire.ResumeAckValue);

    /// <summary>Tells a source with the capability switchover-ack that it may switch. Others take it for an error.</summary>
    /// <exception cref="MigrationConnectionException">The connection is lost.</exception>
    public void SwitchoverAck()
    {
        Span<byte> message = stackalloc byte[HeaderLength];
        WriteHeader(message, ReturnPathMessageType.SwitchoverAck, 0);
        Enqueue(message);
    }

    /// <summary>Ends the migration: the last message. 0 only when no page is missing any more.</summary>
    /// <param name="status">0 for success; anything else fails the migration at the source.</param>
    /// <exception cref="MigrationConnectionException">The connection is lost.</exception>
    public void Shut(uint status) => SendNumber(ReturnPathMessageType.Shut, status);

    /// <summary>Answers RECV_BITMAP.</summary>
    /// <param name="block">The block that was asked about.</param>
    /// <param name="bitmap">One bit per target page that is placed, little endian, a multiple of 8 bytes; copied.</param>
    /// <exception cref="MigrationConnectionException">The connection is lost.</exception>
    public void SendReceivedBitmap(StreamRamBlock block, ReadOnlySpan<byte> bitmap)
    {
        ArgumentNullException.ThrowIfNull(block);
        byte[] name = block.NameBytes;
        Span<byte> message = stackalloc byte[MessageRing.MaxMessage];
        WriteHeader(message, ReturnPathMessageType.RecvBitmap, 1 + name.Length);
        message[HeaderLength] = (byte)name.Length;
        name.CopyTo(message[(HeaderLength + 1)..]);

        // The size, the bitmap and its end mark are not counted in the message's length.
        byte[] bulk = new byte[bitmap.Length + (2 * sizeof(ulong))];
        BinaryPrimitives.WriteUInt64BigEndian(bulk, (ulong)bitmap.Length);
        bitmap.CopyTo(bulk.AsSpan(sizeof(ulong)));
        BinaryPrimitives.WriteUInt64BigEndian(bulk.AsSpan(sizeof(ulong) + bitmap.Length), QemuWire.ReceivedBitmapEnd);
        Enqueue(message[..(HeaderLength + 1 + name.Length)], bulk);
    }

    /// <summary>Waits until all messages queued before are in the socket.</summary>
    /// <param name="timeout">How long to wait at most.</param>
    /// <returns>False when the time is over.</returns>
    /// <exception cref="MigrationConnectionException">The connection is lost.</exception>
    public bool Flush(TimeSpan timeout) => WaitForHead(_ring.Tail, timeout);

    /// <summary>Stops sending; messages that still wait are dropped. Gives the connection up when a send is standing still.</summary>
    public void Dispose()
    {
        if (_disposed)
        {
            return;
        }

        _disposed = true;
        _stopping = true;
        _wake.Set();
        if (!_thread.Join(TimeSpan.FromMilliseconds(200)))
        {
            _channel.Abort();
            _thread.Join();
        }

        _wake.Dispose();
    }

    /// <summary>A message about pages of a named block; its length.</summary>
    private static int WritePages(Span<byte> message, ReturnPathMessageType type, StreamRamBlock block, long offset, long length)
    {
        const int NameAt = HeaderLength + sizeof(ulong) + sizeof(uint);
        byte[] name = block.NameBytes;
        int end = NameAt + 1 + name.Length;
        WriteHeader(message, type, end - HeaderLength);
        BinaryPrimitives.WriteUInt64BigEndian(message[HeaderLength..], (ulong)offset);
        BinaryPrimitives.WriteUInt32BigEndian(message[(HeaderLength + sizeof(ulong))..], (uint)length);
        message[NameAt] = (byte)name.Length;
        name.CopyTo(message[(NameAt + 1)..]);
        return end;
    }

    private static void WriteHeader(Span<byte> message, ReturnPathMessageType type, int payloadLength)
    {
        BinaryPrimitives.WriteUInt16BigEndian(message, (ushort)type);
        BinaryPrimitives.WriteUInt16BigEndian(message[sizeof(ushort)..], (ushort)payloadLength);
    }

    private void SendNumber(ReturnPathMessageType type, uint value)
    {
        Span<byte> message = stackalloc byte[HeaderLength + sizeof(uint)];
        WriteHeader(message, type, sizeof(uint));
        BinaryPrimitives.WriteUInt32BigEndian(message[HeaderLength..], value);
        Enqueue(message);
    }
}
