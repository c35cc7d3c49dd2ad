using System.Diagnostics;
using System.Numerics;
using System.Runtime.InteropServices;

namespace Postcopy.Uffd.Qemu;

/// <summary>
/// A bounded queue of whole messages: many producers, one consumer at a time. Each slot carries a sequence number that says
/// whose turn it is (position: free for the producer of that position; position + 1: filled), so that a producer never waits
/// for another one. The messages are an array and not native memory: a fault thread that is late may still be inside
/// <see cref="TryEnqueue"/> while the connection is taken down. It is not cleared, and pinned so that no collection copies
/// it: of the 300 KiB of an ordinary ring only the pages that are used cost anything.
/// </summary>
internal sealed class MessageRing
{
    /// <summary>The longest return-path message with a counted payload: header, be64, be32, a name.</summary>
    internal const int MaxMessage = (2 * sizeof(ushort)) + sizeof(ulong) + sizeof(uint) + 1 + ProtocolLimits.MaxNameLength;

    private const int CacheLine = 64;
    private readonly long[] _sequences;
    private readonly int[] _lengths;
    private readonly byte[] _messages;
    private readonly byte[]?[] _bulk;
    private readonly int _mask;
    private long _head;
    private Padded _tail;

    internal MessageRing(int capacity)
    {
        Debug.Assert(BitOperations.IsPow2(capacity));
        _mask = capacity - 1;
        _sequences = new long[capacity];
        _lengths = new int[capacity];
        _messages = GC.AllocateUninitializedArray<byte>(capacity * MaxMessage, pinned: true);
        _bulk = new byte[]?[capacity];
        for (int i = 0; i < capacity; i++)
        {
            _sequences[i] = i;
        }
    }

    /// <summary>Messages ever queued; a position to wait for.</summary>
    internal long Tail => Volatile.Read(ref _tail.Value);

    /// <summary>Messages ever consumed.</summary>
    internal long Head => Volatile.Read(ref _head);

    /// <summary>True when the oldest message is complete. Any thread; the answer may be old when it arrives.</summary>
    internal bool HasMessage
    {
        get
        {
            long head = Head;
            return Volatile.Read(ref _sequences[head & _mask]) == head + 1;
        }
    }

    /// <summary>Queues a message; false when the ring is full. Any thread: no lock, no allocation.</summary>
    /// <param name="message">The message, copied.</param>
    /// <param name="bulk">Bytes that follow it, not copied.</param>
    internal bool TryEnqueue(ReadOnlySpan<byte> message, byte[]? bulk = null)
    {
        Debug.Assert(message.Length <= MaxMessage);
        while (true)
        {
            long position = Volatile.Read(ref _tail.Value);
            int slot = (int)(position & _mask);
            long turn = Volatile.Read(ref _sequences[slot]) - position;
            if (turn < 0)
            {
                return false;
            }

            if (turn == 0 && Interlocked.CompareExchange(ref _tail.Value, position + 1, position) == position)
            {
                _lengths[slot] = message.Length;
                message.CopyTo(_messages.AsSpan(slot * MaxMessage));
                _bulk[slot] = bulk;
                // Release: pairs with the acquire in TryPeek.
                Volatile.Write(ref _sequences[slot], position + 1);
                return true;
            }
        }
    }

    /// <summary>The oldest message, if there is one; valid until <see cref="Pop"/>. Only the consumer of the moment.</summary>
    internal bool TryPeek(out ReadOnlySpan<byte> message, out byte[]? bulk)
    {
        int slot = (int)(_head & _mask);
        if (Volatile.Read(ref _sequences[slot]) != _head + 1)
        {
            message = default;
            bulk = null;
            return false;
        }

        message = _messages.AsSpan(slot * MaxMessage, _lengths[slot]);
        bulk = _bulk[slot];
        return true;
    }

    /// <summary>Gives the oldest slot back. Only the consumer of the moment.</summary>
    internal void Pop()
    {
        long head = _head;
        _bulk[head & _mask] = null;
        // Release: the producer that reuses the slot reads this with acquire.
        Volatile.Write(ref _sequences[head & _mask], head + _mask + 1);
        Volatile.Write(ref _head, head + 1);
    }

    /// <summary>The producers' counter on a cache line of its own.</summary>
    [StructLayout(LayoutKind.Explicit, Size = 2 * CacheLine)]
    private struct Padded
    {
        [FieldOffset(CacheLine)]
        internal long Value;
    }
}
