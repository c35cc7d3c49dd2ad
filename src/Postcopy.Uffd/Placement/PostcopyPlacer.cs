using System.Runtime.CompilerServices;
using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd;

/// <summary>
/// Places pages into guest memory that waits for them: picks the operation that the memory has, resumes what was done
/// in part, wakes who must be woken, verifies "already present", and marks received only what is really there.
/// </summary>
/// <remarks>
/// <para>Usable alone: attach each block to its descriptor (<see cref="RamBlock.Attach(UffdHandle, UffdRegistration)"/>)
/// and call from any number of threads. A caller that accounts for waiters with a tracker sets the page's bit in
/// <see cref="RamBlock.Requested"/> when it reads a fault; only awaited placements reach the tracker.</para>
/// <para>Order (hazards H9, H28). The fault reader publishes the stall, sets "requested", then looks at "received"
/// again. The placer lets the kernel place and wake (one atomic step of the kernel), takes the time, sets "received",
/// then looks at "requested". Both bitmap changes are interlocked and so full fences between the two steps of each
/// side: at least one of them sees the other, and no stall stays open.</para>
/// <para>Locks: a shared claim on the stretch of 2 MiB (against discards), inside it the shared layout gate (against
/// remove events, only if they are enabled). Both are held around one ioctl and its bit; never while pausing.
/// No placement allocates. Kernel: Linux 4.3 for COPY and ZEROPAGE, 5.13 for CONTINUE, 6.6 for poison.</para>
/// </remarks>
public sealed partial class PostcopyPlacer : IDisposable
{
    private readonly PlacerOptions _options;
    private readonly BlocktimeTracker? _blocktime;
    private readonly PaddedCounters _counters = new((int)Counter.Count);

    /// <summary>Makes a placer.</summary>
    /// <param name="options">How it behaves; null for the defaults.</param>
    /// <param name="blocktime">Told of every awaited placement; null when blocktime is off.</param>
    /// <exception cref="ArgumentOutOfRangeException"><see cref="PlacerOptions.StretchPatience"/> is negative, or longer than a minute.</exception>
    public PostcopyPlacer(PlacerOptions? options = null, BlocktimeTracker? blocktime = null)
    {
        _options = options ?? new PlacerOptions();
        if (_options.StretchPatience < TimeSpan.Zero || _options.StretchPatience > TimeSpan.FromMinutes(1))
        {
            throw new ArgumentOutOfRangeException(nameof(options), _options.StretchPatience, "An awaited page is kept back for its stretch for 0 to 60 s; StretchPlacement.Auto never keeps it back.");
        }

        StretchPatienceNanoseconds = (long)_options.StretchPatience.TotalNanoseconds;
        _blocktime = blocktime;
    }

    private enum Counter
    {
        CopiedBytes,
        ZeroBytes,
        ContinuedBytes,
        MovedBytes,
        CopiedExcess,
        ZeroExcess,
        ContinuedExcess,
        MovedExcess,
        Operations,
        AlreadyReceivedPages,
        AlreadyPresentPages,
        PartialOperations,
        Pauses,
        AwaitedPlacements,
        StagedOnFault,
        StretchesBegun,
        StretchesMoved,
        StretchesSplit,
        MovedZeros,
        ZeroStretchesMoved,

        // In the order of StretchFallback.
        StretchesDisturbed,
        StretchesUnfinished,
        StretchesSparse,
        StretchesUnbacked,
        StretchesRefused,
        Count,
    }

    private enum Kind
    {
        Copy,
        Zero,

        // Counted by its window when it came: it may be received since because a fault on it was served first.
        StagedZero,
        PageCache,
        Move,
    }

    /// <summary>What it did so far.</summary>
    public PlacementStatistics Statistics => new()
    {
        CopiedBytes = _counters.Sum((int)Counter.CopiedBytes),
        ZeroBytes = _counters.Sum((int)Counter.ZeroBytes),
        ContinuedBytes = _counters.Sum((int)Counter.ContinuedBytes),
        CopiedPages = PagesOf(Counter.CopiedBytes),
        ZeroPages = PagesOf(Counter.ZeroBytes),
        ContinuedPages = PagesOf(Counter.ContinuedBytes),
        Operations = _counters.Sum((int)Counter.Operations),
        AlreadyReceivedPages = _counters.Sum((int)Counter.AlreadyReceivedPages),
        AlreadyPresentPages = _counters.Sum((int)Counter.AlreadyPresentPages),
        PartialOperations = _counters.Sum((int)Counter.PartialOperations),
        Pauses = _counters.Sum((int)Counter.Pauses),
        AwaitedPlacements = _counters.Sum((int)Counter.AwaitedPlacements),
        StagedPagesPlacedOnFault = _counters.Sum((int)Counter.StagedOnFault),
        MovedBytes = _counters.Sum((int)Counter.MovedBytes),
        MovedPages = PagesOf(Counter.MovedBytes),
        MovedZeroPages = _counters.Sum((int)Counter.MovedZeros),
        StretchesBegun = _counters.Sum((int)Counter.StretchesBegun),
        StretchesMoved = _counters.Sum((int)Counter.StretchesMoved),
        ZeroStretchesMoved = _counters.Sum((int)Counter.ZeroStretchesMoved),
        StretchesSplit = _counters.Sum((int)Counter.StretchesSplit),
        StretchesDisturbed = _counters.Sum((int)Counter.StretchesDisturbed),
        StretchesUnfinished = _counters.Sum((int)Counter.StretchesUnfinished),
        StretchesSparse = _counters.Sum((int)Counter.StretchesSparse),
        StretchesUnbacked = _counters.Sum((int)Counter.StretchesUnbacked),
        StretchesRefused = _counters.Sum((int)Counter.StretchesRefused),
    };

    private const int ToExcess = Counter.CopiedExcess - Counter.CopiedBytes;

    private long PagesOf(Counter bytes) => (_counters.Sum((int)bytes) - _counters.Sum((int)bytes + ToExcess)) >> PageSize.Host.Shift;

    /// <summary>Before the pages are marked received: who sees them complete sees them counted.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private void CountPlaced(RamBlock block, Kind kind, long bytes)
    {
        Counter counter = kind switch { Kind.Copy => Counter.CopiedBytes, Kind.Zero or Kind.StagedZero => Counter.ZeroBytes, Kind.Move => Counter.MovedBytes, _ => Counter.ContinuedBytes };
        Count(Counter.Operations);
        Count(counter, bytes);
        if (block.PageSize != PageSize.Host)
        {
            // What makes the bytes more than that many host pages, so that ordinary pages need no count of their own.
            Count(counter + ToExcess, bytes - ((bytes >> block.PageSize.Shift) << PageSize.Host.Shift));
        }
    }

    /// <summary>Set by the destination while events are enabled.</summary>
    internal LayoutGate? Gate { get; set; }

    internal IPlacementObserver? Observer { get; set; }

    internal TimeSpan Deadline => _options.Deadline;

    /// <summary>Places pages from a buffer and wakes their waiters.</summary>
    /// <param name="block">An attached block.</param>
    /// <param name="offset">Bytes from its start, page-aligned.</param>
    /// <param name="source">
    /// The bytes; needs no alignment. Safety: native memory that stays readable for <paramref name="length"/> bytes
    /// during the call and lies in no registered range (hazard H30).
    /// </param>
    /// <param name="length">Bytes, whole pages.</param>
    /// <returns>What happened; pages that were received before are left alone.</returns>
    public PlaceResult Place(RamBlock block, long offset, nuint source, long length) =>
        Run(block, offset, length, Kind.Copy, source);

    /// <summary>Places zero pages and wakes their waiters.</summary>
    /// <param name="block">An attached block.</param>
    /// <param name="offset">Bytes from its start, page-aligned.</param>
    /// <param name="length">Bytes, whole pages.</param>
    /// <returns>What happened; pages that were received before are left alone.</returns>
    public PlaceResult PlaceZero(RamBlock block, long offset, long length) =>
        Run(block, offset, length, Kind.Zero, ZeroSource.Address);

    /// <summary>
    /// Maps pages whose content was already written through another mapping of the shared memory, by CONTINUE
    /// (Linux 5.13; the block must be registered for minor faults), and wakes their waiters.
    /// </summary>
    /// <param name="block">An attached block of shared memory.</param>
    /// <param name="offset">Bytes from its start, page-aligned.</param>
    /// <param name="length">Bytes, whole pages, all of them complete (hazard H46).</param>
    /// <returns>What happened; pages that were received before are left alone.</returns>
    public PlaceResult PlacePageCache(RamBlock block, long offset, long length) =>
        Run(block, offset, length, Kind.PageCache, 0);

    /// <summary>
    /// Writes a part of a precopy pass into a block that is not registered yet, and marks the pages it touches
    /// received. Later passes may write them again; what stays incomplete the source discards before the switch.
    /// </summary>
    /// <param name="block">A block that is not attached.</param>
    /// <param name="offset">Bytes from its start, a multiple of 4096.</param>
    /// <param name="source">The bytes. Safety: as for <see cref="Place"/>.</param>
    /// <param name="length">Bytes, a multiple of 4096.</param>
    /// <exception cref="RamBlockException">The range is not acceptable, or the block is registered already.</exception>
    public void WritePrecopy(RamBlock block, long offset, nuint source, long length)
    {
        (long first, long pages) = CheckPrecopy(block, offset, length);
        _ = Libc.memcpy(block.HostAddress + (nuint)offset, source, (nuint)length);
        _ = block.MarkReceived(first, pages);
    }

    /// <summary>As <see cref="WritePrecopy"/>, for zeros.</summary>
    /// <param name="block">A block that is not attached.</param>
    /// <param name="offset">Bytes from its start, a multiple of 4096.</param>
    /// <param name="length">Bytes, a multiple of 4096.</param>
    /// <exception cref="RamBlockException">The range is not acceptable, or the block is registered already.</exception>
    public void ZeroPrecopy(RamBlock block, long offset, long length)
    {
        (long first, long pages) = CheckPrecopy(block, offset, length);

        if (!IsZeroAlready(block, offset, length))
        {
            // Page by page: in a long run those that nobody has written to must not get memory.
            for (long at = offset; at < offset + length; at += HostPageAssembler.TargetPageBytes)
            {
                if (!IsZeroAlready(block, at, HostPageAssembler.TargetPageBytes))
                {
                    _ = Libc.memset(block.HostAddress + (nuint)at, 0, HostPageAssembler.TargetPageBytes);
                }
            }
        }

        _ = block.MarkReceived(first, pages);
    }

    /// <summary>
    /// Poisons every missing page of a block: whoever touches one gets SIGBUS instead of silent zeros (hazard H11).
    /// Waiters are woken into it. A later <see cref="Place"/> heals a page.
    /// </summary>
    /// <param name="block">An attached block.</param>
    /// <returns>The pages poisoned, or what stopped it: NotRegistered when the kernel has no POISON (before Linux 6.6).</returns>
    public PlaceResult PoisonMissing(RamBlock block)
    {
        ArgumentNullException.ThrowIfNull(block);
        return block.Primary is { } mapping && mapping.Supports(UffdOperations.Poison)
            ? PoisonMissing(block, mapping)
            : new PlaceResult(PlaceOutcome.NotRegistered, 0, 0, default);
    }

    /// <summary>An assembler for one channel of a stream: see <see cref="HostPageAssembler"/>.</summary>
    public HostPageAssembler CreateAssembler() => new(this);

    /// <summary>Frees the counters and staging; no placement may be under way.</summary>
    public void Dispose()
    {
        FreePool();
        _counters.Dispose();
    }

    /// <summary>
    /// Zeros that are there already get no backing: most of a fresh guest is zero. The host may have written before
    /// (firmware, an earlier pass), so only the memory itself can tell. Reading a hole of a memfd would fill it: ask the file.
    /// </summary>
    private static bool IsZeroAlready(RamBlock block, long offset, long length)
    {
        nuint address = block.HostAddress + (nuint)offset;
        if (block.Memory is { Kind: GuestMemoryKind.Memfd, File: { } file } memory)
        {
            long position = (long)(address - memory.Address);
            long data = Libc.lseek(file, position, Libc.SEEK_DATA);
            return data < 0 ? System.Runtime.InteropServices.Marshal.GetLastPInvokeError() == Errno.ENXIO : data >= position + length;
        }

        for (long done = 0; done < length; done += ZeroSource.Bytes)
        {
            if (Libc.memcmp(address + (nuint)done, ZeroSource.Address, (nuint)Math.Min(length - done, ZeroSource.Bytes)) != 0)
            {
                return false;
            }
        }

        return true;
    }

    private static (long FirstPage, long Pages) CheckPrecopy(RamBlock block, long offset, long length)
    {
        ArgumentNullException.ThrowIfNull(block);
        if (((offset | length) & (HostPageAssembler.TargetPageBytes - 1)) != 0 || offset < 0 || length <= 0 || offset > block.UsedLength - length)
        {
            throw new RamBlockException(block.Name,
                $"Precopy pages, {length} bytes at offset {offset}, are not whole pages of 4 KiB inside RAM block '{block.Name}' of {block.UsedLength} bytes.");
        }

        if (block.IsForeign || block.Primary is not null)
        {
            throw new RamBlockException(block.Name,
                $"RAM block '{block.Name}' is registered; precopy pages are written before Listen, later ones are placed.");
        }

        long first = block.PageSize.IndexOf(offset);
        return (first, block.PageSize.IndexOf(offset + length - 1) - first + 1);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private void Count(Counter counter, long value = 1) => _counters.Add((int)counter, value);
}
