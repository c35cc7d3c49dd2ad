using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;
using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd;

/// <summary>
/// What must outlive a handler: the received bitmaps, in a memfd that the owner makes and every handler maps. Which pages
/// were asked for is not in it: a new handler wakes all waiters, and the kernel tells it of each anew (hazard H48).
/// </summary>
/// <remarks>
/// Byte by byte in docs/out-of-process.md. A received bit is set after its page is placed, so the death of a handler
/// between the two leaves a placed page with a clear bit: the next one's COPY answers "already present" and sets it. The
/// size is sealed, so that no side can take the memory away from under the other.
/// </remarks>
internal sealed unsafe class HandoffState : IDisposable
{
    internal const int HeaderBytes = 4096;
    private const int BitmapAlignment = 64;
    private const int Version = 1;
    private const int EndedFlag = 1;

    private readonly nuint _address;
    private bool _unmapped;

    private HandoffState(SafeFileHandle file, nuint address, long length)
    {
        File = file;
        _address = address;
        Length = length;
    }

    ~HandoffState() => Unmap();

    /// <summary>64-bit words of the header that a handler writes and an owner reads, by their offset.</summary>
    internal enum Word
    {
        Generation = 24,
        Heartbeat = 32,
        Messages = 40,
        Requests = 48,
        PlacedPages = 56,
        StuckFaults = 64,
    }

    private static ReadOnlySpan<byte> Magic => "PCUFFDST"u8;

    internal SafeFileHandle File { get; }

    internal long Length { get; }

    /// <summary>The owner has ended the hand-over in good order.</summary>
    internal bool HasEnded
    {
        get => (Volatile.Read(ref *(int*)(_address + 12)) & EndedFlag) != 0;
        set => Volatile.Write(ref *(int*)(_address + 12), value ? EndedFlag : 0);
    }

    /// <summary>Where bitmaps go, for blocks of so many pages each; the last entry is the end.</summary>
    internal static long[] Layout(IEnumerable<long> pages)
    {
        List<long> offsets = [HeaderBytes];
        foreach (long count in pages)
        {
            offsets.Add((offsets[^1] + PageBitmap.BytesFor(count) + BitmapAlignment - 1) & ~(BitmapAlignment - 1L));
        }

        return [.. offsets];
    }

    /// <summary>Makes the owner's.</summary>
    /// <exception cref="HandoffException">The kernel refused.</exception>
    internal static HandoffState Create(long length)
    {
        SafeFileHandle file = Libc.memfd_create("postcopy-handoff", Libc.MFD_CLOEXEC | Libc.MFD_ALLOW_SEALING);
        if (file.IsInvalid || Libc.ftruncate(file, length) != 0 ||
            Libc.fcntl(file, Libc.F_ADD_SEALS, Libc.F_SEAL_SHRINK | Libc.F_SEAL_GROW | Libc.F_SEAL_SEAL) != 0)
        {
            int errno = Marshal.GetLastPInvokeError();
            file.Dispose();
            throw new HandoffException($"The shared state of {length} bytes could not be made: {Errno.Describe(errno)}.");
        }

        HandoffState state = new(file, Map(file, length), length);
        Magic.CopyTo(new Span<byte>((void*)state._address, Magic.Length));
        *(int*)(state._address + 8) = Version;
        *(long*)(state._address + 16) = length;
        return state;
    }

    /// <summary>Maps what an owner sent, after making sure that it is what it should be.</summary>
    /// <exception cref="HandoffException">It is not.</exception>
    internal static HandoffState Open(SafeFileHandle file, long length)
    {
        const int seals = Libc.F_SEAL_SHRINK | Libc.F_SEAL_GROW;
        int has = Libc.fcntl(file, Libc.F_GET_SEALS, 0);
        if (has < 0 || (has & seals) != seals)
        {
            throw new HandoffException("The second descriptor of the hand-over is no memfd sealed against shrinking and growing: it could be cut off under the handler.");
        }

        long actual = Libc.lseek(file, 0, Libc.SEEK_END);
        if (actual != length)
        {
            throw new HandoffException($"The shared state has {actual} bytes, and the hand-over says {length}.");
        }

        HandoffState state = new(file, Map(file, length), length);
        bool known = new ReadOnlySpan<byte>((void*)state._address, Magic.Length).SequenceEqual(Magic);
        int version = *(int*)(state._address + 8);
        if (!known || version != Version)
        {
            state.Unmap();
            throw new HandoffException(known ? $"The shared state has version {version}; version {Version} is spoken here." : "The second descriptor of the hand-over is no shared state: it does not begin with PCUFFDST.");
        }

        return state;
    }

    internal nuint AddressOf(long offset) => _address + (nuint)offset;

    internal long Read(Word word) => Volatile.Read(ref *(long*)(_address + (nuint)word));

    internal void Write(Word word, long value) => Volatile.Write(ref *(long*)(_address + (nuint)word), value);

    internal void Increment(Word word) => _ = Interlocked.Increment(ref *(long*)(_address + (nuint)word));

    /// <summary>
    /// Closes the descriptor; the memory goes when nobody refers to this object any more, so that figures can be read for
    /// ever. No bitmap may be on it any more.
    /// </summary>
    internal void Close() => File.Dispose();

    /// <summary>Closes and unmaps it; nobody may use it any more.</summary>
    public void Dispose()
    {
        Unmap();
        File.Dispose();
        GC.SuppressFinalize(this);
    }

    private void Unmap()
    {
        if (!_unmapped)
        {
            _unmapped = true;
            _ = Libc.munmap(_address, (nuint)Length);
        }
    }

    private static nuint Map(SafeFileHandle file, long length)
    {
        nuint address = Libc.mmap(0, (nuint)length, Libc.PROT_READ | Libc.PROT_WRITE, Libc.MAP_SHARED, file, 0);
        return address != Libc.MAP_FAILED
            ? address
            : throw new HandoffException($"The shared state of {length} bytes could not be mapped: {Errno.Describe(Marshal.GetLastPInvokeError())}.");
    }
}
