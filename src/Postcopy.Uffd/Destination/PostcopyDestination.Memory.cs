using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd;

/// <content>Guest memory before and after: locks, huge pages, registration, other descriptors.</content>
public sealed partial class PostcopyDestination
{
    private readonly List<FaultSource> _mirrorSources = [];

    /// <summary>
    /// Adds another mapping of a block's shared memory, under the descriptor of another process (a vhost-user backend):
    /// its faults are read by the same fault thread, and every page that is placed is mapped or woken there too.
    /// </summary>
    /// <param name="uffd">That process's descriptor, registered there; it stays the caller's.</param>
    /// <param name="block">A block of shared memory.</param>
    /// <param name="address">Where the block starts in that process.</param>
    /// <param name="modes">How it is registered there.</param>
    /// <exception cref="PostcopyStateException">The destination has ended or failed.</exception>
    /// <exception cref="RamBlockException">The block's memory is not shared.</exception>
    public void AttachMirror(UffdHandle uffd, RamBlock block, nuint address, UffdModes modes)
    {
        ArgumentNullException.ThrowIfNull(uffd);
        ArgumentNullException.ThrowIfNull(block);
        lock (_steps)
        {
            RequireLocked(nameof(AttachMirror), PostcopyState.None, PostcopyState.Advise, PostcopyState.Discard,
                PostcopyState.Listen, PostcopyState.Running, PostcopyState.Paused);
            block.AttachMirror(uffd, address, modes);
            FaultSource? source = _mirrorSources.Find(s => ReferenceEquals(s.Kernel, uffd));
            if (source is not null)
            {
                source.Add(block, address);
                return;
            }

            bool taken = false;
            uffd.DangerousAddRef(ref taken);
            _mirrorHandles.Add(uffd);
            source = new FaultSource(uffd, uffd.Descriptor, registry: null, isPrimary: false);
            source.Add(block, address);
            _mirrorSources.Add(source);
            _reader?.AddSource(source);
        }
    }

    /// <summary>
    /// Makes kernel and bitmap agree before registration: locked memory would populate itself (hazard H21), huge pages
    /// would swallow missing neighbours (hazard H18), and a page that was only read has the zero page mapped.
    /// </summary>
    private void PrepareMemoryLocked()
    {
        // With flags the kernel walks the page tables of the whole process: once for all blocks, and not at all, the guest
        // being stopped, where memory of our own says the same.
        bool isKnown = Blocks.Blocks.All(b => b.Memory is not null) && !ProcessMaps.IsAnyLocked();
        List<ProcessMaps.Mapping> mappings = isKnown ? [] : ProcessMaps.All(withFlags: true);
        foreach (RamBlock block in Blocks.Blocks)
        {
            AddressRange range = block.Range;
            List<ProcessMaps.Mapping> own = mappings.FindAll(m => m.Range.Overlaps(range));
            if (own.Exists(m => m.IsHugetlb != (block.PageSize != PageSize.Host)))
            {
                throw new RamBlockException(block.Name,
                    $"RAM block '{block.Name}' has pages of {block.PageSize}, its memory {(block.PageSize == PageSize.Host ? "is" : "is not")} hugetlb memory; its page size must be the memory's.");
            }

            if (own.Exists(m => m.IsLocked) && !_relock.Contains(block))
            {
                _ = Libc.munlock(range.Start, range.Length);
                _relock.Add(block);
            }

            if (block.PageSize == PageSize.Host)
            {
                if (block.Memory is null && own.Exists(m => !m.RefusesHugePages) && !_huge.Contains(block))
                {
                    _huge.Add(block);
                }

                _ = Libc.madvise(range.Start, range.Length, Libc.MADV_NOHUGEPAGE);
            }

            int shift = block.PageSize.Shift;
            for (long page = 0; block.Received.TryFindNextClearRun(page, block.PageCount, out long first, out long count); page = first + count)
            {
                block.Discard(new PageRange(first << shift, count << shift));
            }
        }
    }

    private void RegisterLocked()
    {
        List<RamBlock> done = [];
        try
        {
            foreach (RamBlock block in Blocks.Blocks)
            {
                UffdModes modes = UffdModes.Missing;
                if (block.IsShared && Grant!.Has(block.PageSize == PageSize.Host ? UffdFeatures.MinorShmem : UffdFeatures.MinorHugetlbfs))
                {
                    modes |= UffdModes.Minor;
                }

                UffdRegistration registration = _uffd!.Register(block.Range, modes);
                block.Gate = _gate;
                block.Attach(_uffd, registration);
                done.Add(block);
            }
        }
        catch
        {
            foreach (RamBlock block in done)
            {
                _uffd!.Unregister(block.Range);
                block.Detach();
            }

            throw;
        }
    }

    /// <summary>
    /// Unregisters everything that is still mapped. What was unmapped meanwhile (memory hot-unplug) the kernel refuses:
    /// nothing is registered there any more, and the rest must not stay registered for it.
    /// </summary>
    private void UnregisterLocked(bool complete)
    {
        foreach (RamBlock block in Blocks.Blocks)
        {
            if (block.Primary is null)
            {
                continue;
            }

            Unregister(_uffd!, block.Name, block.Range);
            foreach (BlockMapping mirror in block.Mirrors)
            {
                // Nobody answers its faults any more. With pages missing it stays registered: waiting beats silent zeros.
                if (complete && mirror.Kernel is UffdHandle handle)
                {
                    Unregister(handle, block.Name, new AddressRange(mirror.Address, (nuint)block.UsedLength));
                }
            }

            block.Detach();
            block.Gate = null;
        }
    }

    private void Unregister(UffdHandle uffd, string block, AddressRange range)
    {
        try
        {
            uffd.Unregister(range);
        }
        catch (Exception e) when (e is UffdException or ObjectDisposedException)
        {
            Log.UnregisterFailed(_logger, block, range, e);
        }
    }

    private void RestoreMemoryLocked()
    {
        foreach (RamBlock block in Blocks.Blocks)
        {
            if (block.Memory is { IsClosed: true })
            {
                // The host disposed it already: what lies at its addresses now is not ours to change.
                continue;
            }

            block.Memory?.MarkComplete();
            if (_huge.Contains(block))
            {
                _ = Libc.madvise(block.Range.Start, block.Range.Length, Libc.MADV_HUGEPAGE);
            }

            if (_options.LockWhenComplete || _relock.Contains(block))
            {
                AddressRange range = block.Range;
                if (Libc.mlock(range.Start, range.Length) != 0)
                {
                    Log.LockFailed(_logger, block.Name, System.Runtime.InteropServices.Marshal.GetLastPInvokeError());
                }
            }
        }
    }
}
