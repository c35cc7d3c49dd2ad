using System.Buffers.Binary;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Postcopy.Uffd.Qemu.Interop;

namespace Postcopy.Uffd.Qemu;

/// <summary>
/// Receives page records with one call to two places: heads to one side, contents one behind the other to where they are
/// wanted. The heads are guessed; what was received behind a wrong guess is put together again.
/// </summary>
/// <remarks>Used by the reader's thread. All memory is native, touched once, and none of it guest memory (H30).</remarks>
internal sealed unsafe class PageScatter : IDisposable
{
    private const int Head = sizeof(ulong);

    // Of a stream that is faster than its reader: so much that it still is in the processor's cache when it is placed.
    internal const int MostPages = 64;

    private readonly int _size;
    private readonly int _record;
    private byte* _memory;
    private readonly ulong* _heads;
    private readonly Libc.IoVector* _vectors;

    /// <param name="size">Bytes of a page.</param>
    /// <param name="bufferBytes">Of the receive buffer, which takes all back after a wrong guess.</param>
    internal PageScatter(int size, int bufferBytes)
    {
        _size = size;
        _record = Head + size;
        Capacity = Math.Min(MostPages, bufferBytes / _record);
        nuint bytes = (nuint)(Capacity * (size + Head + (2 * sizeof(Libc.IoVector))));
        // SAFETY: freed in Dispose; pages, vectors of two words, heads of one: each aligned by what is before it.
        _memory = (byte*)NativeMemory.AlignedAlloc(bytes, 4096);
        NativeMemory.Clear(_memory, bytes);
        _vectors = (Libc.IoVector*)(_memory + (Capacity * size));
        _heads = (ulong*)(_vectors + (2 * Capacity));
    }

    /// <summary>Pages that it takes at once.</summary>
    internal int Capacity { get; }

    /// <summary>Room for them.</summary>
    internal nuint Buffer => (nuint)_memory;

    /// <summary>Receives, waiting for the first byte.</summary>
    /// <param name="buffer">Has less than a record left, which is the beginning of the first.</param>
    /// <param name="firstHead">The head that is expected of the first, as a number; each next one is a page further.</param>
    /// <param name="target">Where the contents go.</param>
    /// <param name="pages">How many at most.</param>
    /// <param name="section">For the error when the connection ends.</param>
    /// <param name="whole">Pages that came whole, with the head that was expected.</param>
    /// <returns>False when a head was another; it and what follows it are in the buffer now.</returns>
    internal bool Receive(ReceiveBuffer buffer, ulong firstHead, nuint target, int pages, string? section, out int whole)
    {
        int left = buffer.Available;
        if (left >= Head && BinaryPrimitives.ReadUInt64BigEndian(buffer.Peek(Head)) != firstHead)
        {
            whole = 0;
            return false;
        }

        int got = buffer.ReceiveInto(_vectors, Prepare(target, pages, left), section);
        int total = Gather(buffer.Peek(left), target) + got;
        for (whole = 0; (whole + 1) * _record <= total && BinaryPrimitives.ReverseEndianness(_heads[whole]) == firstHead + (ulong)(whole * _size); whole++)
        {
        }

        int taken = whole * _record;
        Restore(buffer.Replace(total - taken), target, taken);
        return (whole + 1) * _record > total;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        // SAFETY: allocated in the constructor.
        NativeMemory.AlignedFree(_memory);
        _memory = null;
    }

    /// <summary>Vectors for records of which the first bytes are here already.</summary>
    private int Prepare(nuint target, int pages, int left)
    {
        int count = 0;
        for (int i = 0; i < pages; i++)
        {
            int skip = i == 0 ? left : 0;
            if (skip < Head)
            {
                _vectors[count++] = new Libc.IoVector { Base = (nuint)(_heads + i) + (nuint)skip, Length = (nuint)(Head - skip) };
                skip = Head;
            }

            _vectors[count++] = new Libc.IoVector
            {
                Base = target + (nuint)((i * _size) + skip - Head),
                Length = (nuint)(_size - (skip - Head)),
            };
        }

        return count;
    }

    private int Gather(ReadOnlySpan<byte> left, nuint target)
    {
        int head = Math.Min(left.Length, Head);
        // SAFETY: less than a record is left: it goes to the first head and the first page.
        left[..head].CopyTo(new Span<byte>(_heads, Head));
        left[head..].CopyTo(new Span<byte>((void*)target, _size));
        return left.Length;
    }

    /// <summary>The bytes from one position of the records on, as they came.</summary>
    private void Restore(Span<byte> into, nuint target, int from)
    {
        int number = from / _record;
        while (!into.IsEmpty)
        {
            int head = Math.Min(into.Length, Head);
            // SAFETY: head and page of a record that was received into, at least in part.
            new ReadOnlySpan<byte>(_heads + number, head).CopyTo(into);
            into = into[head..];
            int page = Math.Min(into.Length, _size);
            new ReadOnlySpan<byte>((void*)(target + (nuint)(number * _size)), page).CopyTo(into);
            into = into[page..];
            number++;
        }
    }
}
