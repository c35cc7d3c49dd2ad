using System.Diagnostics;
using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text;
using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd;

/// <summary>
/// A named piece of guest RAM: where it lies, how large it is, which of its pages were received (the copied-page
/// bitmap of QEMU's blocktime series) and which were requested from the source.
/// </summary>
/// <remarks>
/// Thread-safe. "Received" means placed in the guest's memory, never merely read from a socket. Managed code sees the
/// content only through <see cref="Read"/>, <see cref="ComputeSha256"/> and <see cref="LeasePresent"/> (hazard H1).
/// </remarks>
[DebuggerDisplay("{ToString(),nq}")]
public sealed partial class RamBlock
{
    private const int ChunkBytes = 1 << 20;

    private long _missing;
    private nuint _hostAddress;

    internal RamBlock(string name, nuint hostAddress, long usedLength, PageSize pageSize, ulong guestPhysical, bool shared, GuestMemory? memory,
        PageBitmap? received = null)
    {
        Name = name;
        NameUtf8 = Encoding.UTF8.GetBytes(name);
        _hostAddress = hostAddress;
        UsedLength = usedLength;
        PageSize = pageSize;
        GuestPhysicalAddress = guestPhysical;
        IsShared = shared;
        Memory = memory;
        PageCount = usedLength >> pageSize.Shift;
        IsForeign = received is not null;
        Received = received ?? new PageBitmap(PageCount);
        Requested = new PageBitmap(PageCount);
        Unsent = new PageBitmap(PageCount);
        Claims = new StretchClaims(usedLength, pageSize);
        _missing = PageCount - (received?.CountSet() ?? 0);
    }

    /// <summary>Its name on the wire.</summary>
    public string Name { get; }

    /// <summary>The name as it goes over the wire, 1 to 255 bytes.</summary>
    public ReadOnlyMemory<byte> NameUtf8 { get; }

    /// <summary>Where it starts in this process.</summary>
    public nuint HostAddress => Volatile.Read(ref _hostAddress);

    /// <summary>Used bytes, a multiple of the page size.</summary>
    public long UsedLength { get; }

    /// <summary>The size of its pages: what is placed, requested and counted at a time.</summary>
    public PageSize PageSize { get; }

    /// <summary>Pages in the block.</summary>
    public long PageCount { get; }

    /// <summary>Where it starts in the guest.</summary>
    public ulong GuestPhysicalAddress { get; }

    /// <summary>True when the memory is mapped shared.</summary>
    public bool IsShared { get; }

    /// <summary>The memory it lies in, when the host gave it as <see cref="GuestMemory"/>.</summary>
    public GuestMemory? Memory { get; }

    /// <summary>Pages that are placed. Change it through the placer and <see cref="Discard"/> only.</summary>
    public PageBitmap Received { get; }

    /// <summary>Pages that some thread waits for or somebody asked for.</summary>
    public PageBitmap Requested { get; }

    /// <summary>
    /// Requested pages of which the source must still be told. Whoever sets "requested" owes the request, and either
    /// sends it or sets the bit; the fault thread alone clears it, right before it sends. Queues only say where to look.
    /// </summary>
    internal PageBitmap Unsent { get; }

    /// <summary>True when the addresses are those of another process: pages can be placed there, and nothing read or written.</summary>
    internal bool IsForeign { get; }

    /// <summary>True while another process places the pages and sets the received bits, in memory shared with it.</summary>
    internal bool IsHandedOver { get; private set; }

    /// <summary>From here on the received bits live in shared memory, and somebody else sets them.</summary>
    internal void HandOver(nuint words)
    {
        Received.MoveTo(words);
        IsHandedOver = true;
    }

    /// <summary>Nobody else sets received bits any more.</summary>
    internal void TakeBack()
    {
        if (IsHandedOver)
        {
            Received.MoveBack();
            Volatile.Write(ref _missing, PageCount - Received.CountSet());
            IsHandedOver = false;
        }
    }

    private void RequireOwn()
    {
        if (IsForeign)
        {
            throw new InvalidOperationException($"RAM block '{Name}' is memory of another process: pages can be placed there, nothing else. Read and write it in its own process.");
        }
    }

    /// <summary>Keeps a discard from ending before its own event is applied; null unless events are followed.</summary>
    internal LayoutGate? Gate { get; set; }

    /// <summary>
    /// True once missing pages were poisoned: ZEROPAGE says "already present" for such a page, only COPY heals it (hazard H47).
    /// </summary>
    internal bool MayBePoisoned { get; set; }

    /// <summary>True once the kernel showed that whole stretches cannot be moved here, or only in pieces.</summary>
    internal bool RefusesStretches { get; set; }

    /// <summary>Moves that were split, less those that were not.</summary>
    internal int StretchSplits { get; set; }

    /// <summary>The same for stretches that a fault had touched: before Linux 6.14 their page tables stay, and each is split.</summary>
    internal int TouchedSplits { get; set; }

    /// <summary>No more faults ask for whole stretches of it.</summary>
    internal bool SplitsTouchedStretches { get; set; }

    /// <summary>Pages not received yet. Exact whenever no placement is under way.</summary>
    public long MissingPages => IsHandedOver ? PageCount - Received.CountSet() : Volatile.Read(ref _missing);

    /// <summary>The used range in this process.</summary>
    public AddressRange Range => new(HostAddress, (nuint)UsedLength);

    internal StretchClaims Claims { get; }

    /// <summary>Copies bytes out. Blocks, harmlessly for the runtime, while a page of the range is missing.</summary>
    /// <param name="offset">Bytes from the start of the block.</param>
    /// <param name="to">Where they go.</param>
    /// <exception cref="ArgumentOutOfRangeException">The range is not inside the block.</exception>
    /// <exception cref="InvalidOperationException">The memory is another process's (<see cref="HandoffSession"/>); the same holds for all that reads, writes or discards.</exception>
    /// <exception cref="ObjectDisposedException"><see cref="Memory"/> was disposed.</exception>
    public void Read(long offset, Span<byte> to)
    {
        RequireOwn();
        GuestAccess.CheckRange(offset, to.Length, UsedLength, $"RAM block '{Name}'");
        using GuestMemory.Reference reference = new(Memory);
        GuestAccess.Read(HostAddress + (nuint)offset, to);
    }

    /// <summary>
    /// Copies bytes in, as precopy does before the block is registered. Marks nothing: see
    /// <see cref="PostcopyPlacer.WritePrecopy"/>.
    /// </summary>
    /// <param name="offset">Bytes from the start of the block.</param>
    /// <param name="from">What is written.</param>
    /// <exception cref="ArgumentOutOfRangeException">The range is not inside the block.</exception>
    public void Write(long offset, ReadOnlySpan<byte> from)
    {
        RequireOwn();
        GuestAccess.CheckRange(offset, from.Length, UsedLength, $"RAM block '{Name}'");
        using GuestMemory.Reference reference = new(Memory);
        GuestAccess.Write(HostAddress + (nuint)offset, from);
    }

    /// <summary>SHA-256 of the whole block; waits, harmlessly for the runtime, for missing pages.</summary>
    public byte[] ComputeSha256()
    {
        using IncrementalHash hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        byte[] chunk = new byte[Math.Min(ChunkBytes, UsedLength)];
        for (long offset = 0; offset < UsedLength; offset += chunk.Length)
        {
            Span<byte> part = chunk.AsSpan(0, (int)Math.Min(chunk.Length, UsedLength - offset));
            Read(offset, part);
            hash.AppendData(part);
        }

        return hash.GetHashAndReset();
    }

    /// <summary>
    /// Lends managed sight of a range in which every page is received, and keeps discards away from it until the
    /// lease is disposed.
    /// </summary>
    /// <param name="offset">Bytes from the start of the block.</param>
    /// <param name="length">Bytes.</param>
    /// <exception cref="ArgumentOutOfRangeException">The range is not inside the block.</exception>
    /// <exception cref="InvalidOperationException">A page of the range is missing; the message names the first.</exception>
    /// <exception cref="GuestMemoryException">A page of the range is poisoned.</exception>
    /// <exception cref="ObjectDisposedException"><see cref="Memory"/> was disposed.</exception>
    public unsafe PresentLease LeasePresent(long offset, int length)
    {
        RequireOwn();
        GuestAccess.CheckRange(offset, length, UsedLength, $"RAM block '{Name}'");
        if (length == 0)
        {
            return default;
        }

        long first = Claims.StretchOf(offset);
        long count = Claims.StretchOf(offset + length - 1) - first + 1;
        bool taken = false;
        Memory?.DangerousAddRef(ref taken);
        for (long s = first; s < first + count; s++)
        {
            Claims.AcquireShared(s);
        }

        try
        {
            MakePresent(PageSize.IndexOf(offset), PageSize.IndexOf(offset + length - 1) + 1);
        }
        catch
        {
            ReleaseLease(first, count);
            throw;
        }

        // SAFETY: every page of the range is placed, and until the lease ends the shared claims keep Discard out and the
        // reference keeps the mapping.
        return new PresentLease(this, first, count, new ReadOnlySpan<byte>((void*)(HostAddress + (nuint)offset), length));
    }

    /// <summary>Name, size, place and progress.</summary>
    public override string ToString() =>
        $"'{Name}', {UsedLength} bytes in pages of {PageSize} at 0x{(ulong)HostAddress:x}, {MissingPages} of {PageCount} pages missing";

    internal void ReleaseLease(long first, long count)
    {
        for (long s = first; s < first + count; s++)
        {
            Claims.ReleaseShared(s);
        }

        Memory?.DangerousRelease();
    }

    /// <summary>
    /// "Received" can also mean thrown away by a balloon since, and zero from then on: such a page is absent, and the fault
    /// thread gives it back as zeros when it is touched. Touch it here, in preemptive mode.
    /// </summary>
    private void MakePresent(long firstPage, long endPage)
    {
        if (Received.TryFindNextClearRun(firstPage, endPage, out long missing, out _))
        {
            throw new InvalidOperationException(
                $"The page at offset {missing << PageSize.Shift} of RAM block '{Name}' is missing; wait with EnsurePresentAsync, or use Read, which blocks until it is there.");
        }

        PopulateForReading(HostAddress + (nuint)(firstPage << PageSize.Shift), (nuint)((endPage - firstPage) << PageSize.Shift));
    }

    /// <summary>Sets received bits and keeps the count. A full fence: the partner is the fault reader's re-check.</summary>
    /// <returns>Pages that were not received before.</returns>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal long MarkReceived(long firstPage, long pages)
    {
        long changed = pages == 1 ? (Received.TestAndSet(firstPage) ? 0 : 1) : Received.SetRange(firstPage, pages);
        if (changed != 0)
        {
            _ = Interlocked.Add(ref _missing, -changed);
        }

        return changed;
    }

    /// <summary>Finds the next page that was asked for and is not received, at or after <paramref name="from"/>. Any thread.</summary>
    /// <param name="from">The first page to look at.</param>
    /// <param name="page">The page's index in the block; -1 when there is none.</param>
    public bool TryFindOpenRequest(long from, out long page) => TryFindOpen(from, PageCount, onlyUnsent: false, out page);

    /// <summary>Finds the next page in [from, end) of which the source must be told.</summary>
    internal bool TryFindUnsent(long from, long end, out long page) => TryFindOpen(from, end, onlyUnsent: true, out page);

    /// <summary>For the fault thread: takes the duty to tell the source of a page; false when there is none (any more).</summary>
    internal bool TryTakeUnsent(long page) => Unsent.TestAndClear(page) && Requested.Test(page) && !Received.Test(page);

    /// <summary>A new link knows nothing: everything that is open must be sent on it.</summary>
    internal void MarkOpenRequestsUnsent()
    {
        for (long word = 0; word < Requested.WordCount; word++)
        {
            ulong open = Requested.LoadWord(word) & ~Received.LoadWord(word);
            if (open != 0)
            {
                Unsent.OrWord(word, open);
            }
        }
    }

    private bool TryFindOpen(long from, long end, bool onlyUnsent, out long page)
    {
        for (long word = from >> 6; word << 6 < end; word++)
        {
            ulong open = Requested.LoadWord(word) & ~Received.LoadWord(word);
            if (onlyUnsent)
            {
                open &= Unsent.LoadWord(word);
            }

            if (word == from >> 6)
            {
                open &= ulong.MaxValue << (int)(from & 63);
            }

            if (open != 0)
            {
                page = (word << 6) + BitOperations.TrailingZeroCount(open);
                return page < end;
            }
        }

        page = -1;
        return false;
    }

    /// <summary>A REMAP event moved the whole block.</summary>
    internal void MoveTo(nuint hostAddress) => Volatile.Write(ref _hostAddress, hostAddress);

    private void PopulateForReading(nuint start, nuint length)
    {
        while (Libc.madvise(start, length, Libc.MADV_POPULATE_READ) != 0)
        {
            int errno = Marshal.GetLastPInvokeError();
            if (errno == Errno.EINVAL)
            {
                TouchEachPage(start, length);
                return;
            }

            if (errno is not (Errno.EINTR or Errno.EAGAIN))
            {
                throw new GuestMemoryException("madvise", errno,
                    $"{length} bytes of RAM block '{Name}' could not be made present: {Errno.Describe(errno)} (EFAULT: the page is poisoned).");
            }
        }
    }

    /// <summary>Before Linux 5.14: one byte a page, through memcpy.</summary>
    private static void TouchEachPage(nuint start, nuint length)
    {
        Span<byte> one = stackalloc byte[1];
        for (nuint at = 0; at < length; at += (nuint)PageSize.Host.Bytes)
        {
            GuestAccess.Read(start + at, one);
        }
    }

    internal void Release()
    {
        Received.Dispose();
        Requested.Dispose();
        Unsent.Dispose();
        Claims.Dispose();
    }
}
