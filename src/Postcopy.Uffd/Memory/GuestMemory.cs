using System.Diagnostics;
using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;
using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd;

/// <summary>
/// Memory of a guest: mapped, aligned and advised as postcopy needs it. There is no indexer, no Span and no pointer:
/// managed code that touches a missing page can hang the whole process (hazard H1, docs/memory-safety.md). Use
/// <see cref="Read"/> and <see cref="Write"/>, which may block but harm nobody, or
/// <c>RamBlock.LeasePresent</c> on a range that is complete.
/// </summary>
/// <remarks>
/// Until <see cref="MarkComplete"/> the mapping is not inherited by fork (MADV_DONTFORK: a child would read zeros),
/// not part of core dumps (MADV_DONTDUMP) and without transparent huge pages (hazard H18). Threads: all members may
/// be called from any thread. Disposing unmaps; nothing may use the memory then, no vCPU and no descriptor.
/// </remarks>
[DebuggerDisplay("{ToString(),nq}")]
public sealed class GuestMemory : SafeHandle
{
    private readonly SafeFileHandle? _file;

    private GuestMemory(nuint address, long length, GuestMemoryKind kind, PageSize pageSize, bool shared, ulong guestPhysical, SafeFileHandle? file)
        : base((nint)0, ownsHandle: true)
    {
        SetHandle((nint)address);
        Length = length;
        Kind = kind;
        PageSize = pageSize;
        IsShared = shared;
        GuestPhysicalAddress = guestPhysical;
        _file = file;
    }

    /// <inheritdoc/>
    public override bool IsInvalid => handle == IntPtr.Zero;

    /// <summary>Where it is mapped in this process.</summary>
    public nuint Address => (nuint)(nint)handle;

    /// <summary>Bytes.</summary>
    public long Length { get; }

    /// <summary>What backs it.</summary>
    public GuestMemoryKind Kind { get; }

    /// <summary>The size of the pages that back it.</summary>
    public PageSize PageSize { get; }

    /// <summary>True when other mappings of the same memory can exist.</summary>
    public bool IsShared { get; }

    /// <summary>Where it starts in the guest.</summary>
    public ulong GuestPhysicalAddress { get; }

    /// <summary>The memfd behind shared memory, to hand to a vhost-user backend; null for anonymous memory.</summary>
    public SafeFileHandle? File => _file;

    /// <summary>The whole mapping.</summary>
    public AddressRange Range => new(Address, (nuint)Length);

    /// <summary>Maps guest memory.</summary>
    /// <param name="options">What is wanted.</param>
    /// <exception cref="ArgumentException">The length or page size does not fit the kind.</exception>
    /// <exception cref="GuestMemoryException">The system has not enough: memory, huge pages, address space.</exception>
    public static GuestMemory Allocate(GuestMemoryOptions options)
    {
        ArgumentNullException.ThrowIfNull(options);
        Platform.Require();
        PageSize pageSize = options.PageSize ?? (options.Kind == GuestMemoryKind.Hugetlb ? PageSize.TwoMiB : PageSize.Host);
        Validate(options, pageSize);

        bool shared = options.Kind == GuestMemoryKind.Memfd || (options.Kind == GuestMemoryKind.Hugetlb && options.Shared);
        SafeFileHandle? file = shared ? GuestMapping.CreateFile(options, pageSize) : null;
        try
        {
            nuint address = GuestMapping.Map(options, pageSize, file);
            GuestMemory memory = new(address, options.Length, options.Kind, pageSize, shared, options.GuestPhysicalAddress, file);
            GuestMapping.Advise(memory.Range, options.Kind, incomplete: true);
            return memory;
        }
        catch
        {
            file?.Dispose();
            throw;
        }
    }

    /// <summary>
    /// Copies bytes out. Blocks, harmlessly for the runtime, while a page of the range is missing.
    /// </summary>
    /// <param name="offset">Bytes from the start.</param>
    /// <param name="to">Where they go.</param>
    /// <exception cref="ArgumentOutOfRangeException">The range is not inside the memory.</exception>
    public void Read(long offset, Span<byte> to)
    {
        GuestAccess.CheckRange(offset, to.Length, Length, "the guest memory");
        using Reference reference = new(this);
        GuestAccess.Read(Address + (nuint)offset, to);
    }

    /// <summary>
    /// Copies bytes in. Blocks, harmlessly for the runtime, while a page of the range is missing and registered.
    /// </summary>
    /// <param name="offset">Bytes from the start.</param>
    /// <param name="from">What is written.</param>
    /// <exception cref="ArgumentOutOfRangeException">The range is not inside the memory.</exception>
    public void Write(long offset, ReadOnlySpan<byte> from)
    {
        GuestAccess.CheckRange(offset, from.Length, Length, "the guest memory");
        using Reference reference = new(this);
        GuestAccess.Write(Address + (nuint)offset, from);
    }

    /// <summary>
    /// Backs a range with memory, as a touch by a native thread would: it waits for missing registered pages
    /// (MADV_POPULATE_READ or _WRITE, Linux 5.14).
    /// </summary>
    /// <param name="offset">Bytes from the start, page-aligned.</param>
    /// <param name="length">Bytes, whole pages.</param>
    /// <param name="forWriting">True makes the pages writable and private; false only maps them.</param>
    /// <exception cref="ArgumentOutOfRangeException">The range is not inside the memory.</exception>
    /// <exception cref="ArgumentException">The range is not made of whole pages.</exception>
    /// <exception cref="GuestMemoryException">The kernel refused, for example for want of memory.</exception>
    public void Populate(long offset, long length, bool forWriting)
    {
        GuestAccess.CheckRange(offset, length, Length, "the guest memory");
        if (!PageSize.IsAligned(offset) || !PageSize.IsAligned(length))
        {
            throw new ArgumentException($"{length} bytes at offset {offset} are not whole pages of {PageSize}.", nameof(offset));
        }

        using Reference reference = new(this);
        while (Libc.madvise(Address + (nuint)offset, (nuint)length, forWriting ? Libc.MADV_POPULATE_WRITE : Libc.MADV_POPULATE_READ) != 0)
        {
            int errno = Marshal.GetLastPInvokeError();
            if (errno is Errno.EINTR or Errno.EAGAIN)
            {
                continue;
            }

            throw new GuestMemoryException("madvise", errno,
                $"Populating {length} bytes at offset {offset} failed with {Errno.Describe(errno)}: " +
                "EFAULT is a poisoned page, a hugetlb pool that ran dry, or a missing page of a userfaultfd for user mode only (hazard H22), " +
                "ENOMEM want of memory, EINVAL a kernel before 5.14.");
        }
    }

    /// <summary>
    /// Everything is here: the mapping may be forked and dumped again, and transparent huge pages are allowed.
    /// </summary>
    public void MarkComplete()
    {
        using Reference reference = new(this);
        GuestMapping.Advise(Range, Kind, incomplete: false);
    }

    /// <summary>Size, kind and place.</summary>
    public override string ToString() => $"{Length} bytes of {Kind} memory in pages of {PageSize} at 0x{(ulong)Address:x}";

    /// <inheritdoc/>
    protected override bool ReleaseHandle()
    {
        bool unmapped = Libc.munmap((nuint)(nint)handle, (nuint)Length) == 0;
        _file?.Dispose();
        return unmapped;
    }

    internal static void Validate(GuestMemoryOptions options, PageSize pageSize)
    {
        if (!Enum.IsDefined(options.Kind))
        {
            throw new ArgumentException($"{(int)options.Kind} is no kind of guest memory; there are {string.Join(", ", Enum.GetNames<GuestMemoryKind>())}.", nameof(options));
        }

        if (!pageSize.IsAligned(options.Length) || options.Length <= 0)
        {
            throw new ArgumentException(
                $"The length of guest memory is {options.Length} bytes; it must be a multiple of the page size ({pageSize}) and more than 0.", nameof(options));
        }

        bool fits = options.Kind == GuestMemoryKind.Hugetlb ? pageSize != PageSize.Host : pageSize == PageSize.Host;
        if (!fits)
        {
            throw new ArgumentException(
                $"{options.Kind} memory cannot have pages of {pageSize}: anonymous memory and memfd have the host's ({PageSize.Host}), hugetlb has 2 MiB or 1 GiB.", nameof(options));
        }

        if (options.Shared && options.Kind == GuestMemoryKind.Anonymous)
        {
            throw new ArgumentException("Anonymous memory is private; for shared memory ask for Memfd.", nameof(options));
        }

        if (options.GuestPhysicalAddress > ulong.MaxValue - (ulong)options.Length)
        {
            throw new ArgumentException(
                $"The guest-physical range of {options.Length} bytes from 0x{options.GuestPhysicalAddress:x} goes beyond 64 bits.", nameof(options));
        }

        if (!pageSize.IsAligned((long)options.GuestPhysicalAddress))
        {
            throw new ArgumentException(
                $"The guest-physical address 0x{options.GuestPhysicalAddress:x} is not a multiple of the page size ({pageSize}).", nameof(options));
        }
    }

    /// <summary>
    /// Keeps a mapping alive while a native call or a lease uses it (hazard H10). Memory that a host gave by address is
    /// the host's to keep: then there is nothing to hold.
    /// </summary>
    internal readonly ref struct Reference
    {
        private readonly GuestMemory? _memory;

        /// <exception cref="ObjectDisposedException">The memory was disposed.</exception>
        internal Reference(GuestMemory? memory)
        {
            bool taken = false;
            memory?.DangerousAddRef(ref taken);
            _memory = memory;
        }

        public void Dispose() => _memory?.DangerousRelease();
    }
}
