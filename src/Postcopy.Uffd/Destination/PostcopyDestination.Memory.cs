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
        _relock.Clear();
        foreach (RamBlock block in Blocks.Blocks)
        {
            AddressRange range = block.Range;
            if (ProcessMaps.Overlapping(range, withFlags: true).Exists(m => m.IsLocked))
            {
                _ = Libc.munlock(range.Start, range.Length);
                _relock.Add(block);
            }

            if (block.PageSize == PageSize.Host)
            {
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

    private void UnregisterLocked()
    {
        foreach (RamBlock block in Blocks.Blocks)
        {
            if (block.Primary is not null)
            {
                _uffd!.Unregister(block.Range);
                block.Detach();
            }
        }
    }

    private void RestoreMemoryLocked()
    {
        foreach (RamBlock block in Blocks.Blocks)
        {
            block.Memory?.MarkComplete();
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
