using System.Diagnostics.CodeAnalysis;
using System.Text;

namespace Postcopy.Uffd;

/// <summary>The RAM blocks of one virtual machine, found by name and by host address.</summary>
/// <remarks>
/// Lookups are lock-free, allocate nothing and may run on any thread at any time; with 1024 blocks they take tens of
/// nanoseconds. Adding and removing is for the time when nothing is in flight, and refused between listen and end.
/// </remarks>
public sealed class RamBlockRegistry : IDisposable
{
    /// <summary>The longest name, in bytes of UTF-8: the wire has one byte for its length.</summary>
    public const int MaxNameBytes = 255;

    private readonly Lock _lock = new();
    private State _state = new([], AddressMap.Empty, []);
    private bool _frozen;

    /// <summary>All blocks, in the order in which they were added.</summary>
    public IReadOnlyList<RamBlock> Blocks => Volatile.Read(ref _state).Blocks;

    /// <summary>Bytes of all blocks.</summary>
    public long TotalLength => Blocks.Sum(b => b.UsedLength);

    /// <summary>Pages of all blocks that are not received, in bytes.</summary>
    public long MissingBytes => Blocks.Sum(b => b.MissingPages << b.PageSize.Shift);

    internal AddressMap Map => Volatile.Read(ref _state).Map;

    /// <summary>Adds a block. All its pages are missing.</summary>
    /// <param name="spec">What it is made of.</param>
    /// <exception cref="RamBlockException">The specification is not acceptable; the message says what is.</exception>
    /// <exception cref="InvalidOperationException">A migration is listening.</exception>
    public RamBlock Add(RamBlockSpec spec)
    {
        ArgumentNullException.ThrowIfNull(spec);
        lock (_lock)
        {
            ThrowIfFrozenLocked("added");
            RamBlock block = Validated(spec);
            SetStateLocked([.. _state.Blocks, block]);
            return block;
        }
    }

    /// <summary>
    /// Adds a block of another process's memory: the address means nothing here, and a placer reaches it through that
    /// process's descriptor. What the peer said was checked by the caller, all but overlaps and the name.
    /// </summary>
    internal RamBlock AddForeign(string name, AddressRange range, PageSize pageSize, bool shared, PageBitmap received)
    {
        lock (_lock)
        {
            if (_state.ByName.ContainsKey(name))
            {
                throw new RamBlockException(name, $"There are two RAM blocks '{name}'; names are unique.");
            }

            foreach (RamBlock other in _state.Blocks)
            {
                if (other.Range.Overlaps(range))
                {
                    throw new RamBlockException(name, $"RAM block '{name}' at {range} overlaps '{other.Name}' at {other.Range}.");
                }
            }

            RamBlock block = new(name, range.Start, (long)range.Length, pageSize, 0, shared, memory: null, received);
            SetStateLocked([.. _state.Blocks, block]);
            return block;
        }
    }

    /// <summary>Removes a block and frees its bitmaps; the memory stays the host's.</summary>
    /// <param name="block">A block of this registry.</param>
    /// <exception cref="RamBlockException">It is not in the registry.</exception>
    /// <exception cref="InvalidOperationException">A migration is listening.</exception>
    public void Remove(RamBlock block)
    {
        ArgumentNullException.ThrowIfNull(block);
        lock (_lock)
        {
            ThrowIfFrozenLocked("removed");
            if (!_state.Blocks.Contains(block))
            {
                throw new RamBlockException(block.Name, $"RAM block '{block.Name}' is not in this registry.");
            }

            SetStateLocked([.. _state.Blocks.Where(b => b != block)]);
            block.Release();
        }
    }

    /// <summary>Finds the block that an address of this process lies in.</summary>
    /// <param name="hostAddress">Any address.</param>
    /// <param name="block">The block.</param>
    /// <param name="offset">Bytes from its start.</param>
    public bool TryFind(nuint hostAddress, [NotNullWhen(true)] out RamBlock? block, out long offset) =>
        Volatile.Read(ref _state).Map.TryFind(hostAddress, out block, out offset);

    /// <summary>Finds a block by name.</summary>
    /// <param name="name">Its name on the wire.</param>
    /// <param name="block">The block.</param>
    public bool TryFind(string name, [NotNullWhen(true)] out RamBlock? block) =>
        Volatile.Read(ref _state).ByName.TryGetValue(name, out block);

    /// <summary>Frees the bitmaps; no descriptor may be registered and nothing in flight.</summary>
    public void Dispose()
    {
        lock (_lock)
        {
            foreach (RamBlock block in _state.Blocks)
            {
                block.Release();
            }

            SetStateLocked([]);
        }
    }

    internal void Freeze()
    {
        lock (_lock)
        {
            _frozen = true;
        }
    }

    internal void Thaw()
    {
        lock (_lock)
        {
            _frozen = false;
        }
    }

    /// <summary>A block was moved in the address space: the map is made anew.</summary>
    internal void Refresh()
    {
        lock (_lock)
        {
            SetStateLocked(_state.Blocks);
        }
    }

    private void SetStateLocked(IReadOnlyList<RamBlock> blocks) =>
        Volatile.Write(ref _state, new State(blocks, new AddressMap(blocks.Select(b => new AddressMap.Entry(b.Range, b))),
            blocks.ToDictionary(b => b.Name, StringComparer.Ordinal)));

    private void ThrowIfFrozenLocked(string what)
    {
        if (_frozen)
        {
            throw new InvalidOperationException($"RAM blocks cannot be {what} while a migration is listening; do it before Listen or after the end.");
        }
    }

    private RamBlock Validated(RamBlockSpec spec)
    {
        int nameBytes = Encoding.UTF8.GetByteCount(spec.Name ?? string.Empty);
        if (nameBytes is 0 or > MaxNameBytes)
        {
            throw new RamBlockException(spec.Name, $"A RAM block's name has 1 to {MaxNameBytes} bytes of UTF-8; this one has {nameBytes}.");
        }

        if (_state.ByName.ContainsKey(spec.Name!))
        {
            throw new RamBlockException(spec.Name, $"There is a RAM block '{spec.Name}' already; names are unique.");
        }

        PageSize pageSize = spec.PageSize ?? spec.Memory?.PageSize ?? PageSize.Host;
        if (pageSize.Bytes < PageSize.Host.Bytes)
        {
            throw new RamBlockException(spec.Name,
                $"RAM block '{spec.Name}' is to have pages of {pageSize.Bytes} bytes; this host's pages have {PageSize.Host}, and nothing smaller can be placed.");
        }

        (nuint address, long length) = Place(spec);
        if (length <= 0 || !pageSize.IsAligned(length))
        {
            throw new RamBlockException(spec.Name,
                $"RAM block '{spec.Name}' has a used length of {length} bytes; it must be a multiple of its page size ({pageSize}) and more than 0. Pad the last page.");
        }

        if (!pageSize.IsAligned(address))
        {
            throw new RamBlockException(spec.Name,
                $"RAM block '{spec.Name}' starts at 0x{(ulong)address:x}, which is not a multiple of its page size ({pageSize}).");
        }

        AddressRange range = new(address, (nuint)length);
        foreach (RamBlock other in _state.Blocks)
        {
            if (other.Range.Overlaps(range))
            {
                throw new RamBlockException(spec.Name, $"RAM block '{spec.Name}' at {range} overlaps '{other.Name}' at {other.Range}.");
            }
        }

        bool shared = spec.Memory?.IsShared ?? IsSharedMapping(spec.Name!, range);
        if (spec.Memory is null && pageSize != PageSize.Host && ProcessMaps.Overlapping(range, withFlags: true).Exists(m => !m.IsHugetlb))
        {
            // The kernel may stop a COPY between its own small pages: half a page would count as present.
            throw new RamBlockException(spec.Name,
                $"RAM block '{spec.Name}' is to have pages of {pageSize}, but {range} is not hugetlb memory; leave PageSize out.");
        }

        return new RamBlock(spec.Name!, address, length, pageSize, spec.GuestPhysicalAddress, shared, spec.Memory);
    }

    private static (nuint Address, long Length) Place(RamBlockSpec spec)
    {
        if (spec.Memory is not { } memory)
        {
            return (spec.HostAddress, spec.UsedLength);
        }

        if (spec.HostAddress != 0)
        {
            throw new RamBlockException(spec.Name, $"RAM block '{spec.Name}' names both a memory and a host address; give one.");
        }

        if (memory.PageSize != (spec.PageSize ?? memory.PageSize))
        {
            throw new RamBlockException(spec.Name,
                $"RAM block '{spec.Name}' is to have pages of {spec.PageSize}, but its memory has pages of {memory.PageSize}; they must be the same.");
        }

        long length = spec.UsedLength != 0 ? spec.UsedLength : memory.Length - spec.MemoryOffset;
        if (spec.MemoryOffset < 0 || length > memory.Length - spec.MemoryOffset)
        {
            throw new RamBlockException(spec.Name,
                $"RAM block '{spec.Name}', {length} bytes at offset {spec.MemoryOffset}, does not fit into its memory of {memory.Length} bytes.");
        }

        return (memory.Address + (nuint)spec.MemoryOffset, length);
    }

    private static bool IsSharedMapping(string name, AddressRange range)
    {
        List<ProcessMaps.Mapping> mappings = ProcessMaps.Overlapping(range, withFlags: false);
        nuint covered = 0;
        foreach (ProcessMaps.Mapping mapping in mappings)
        {
            covered += mapping.Range.Intersect(range).Length;
        }

        if (covered != range.Length)
        {
            throw new RamBlockException(name, $"RAM block '{name}' at {range} is not mapped throughout; {covered} of {range.Length} bytes are.");
        }

        bool shared = mappings[0].Shared;
        return mappings.TrueForAll(m => m.Shared == shared)
            ? shared
            : throw new RamBlockException(name, $"RAM block '{name}' at {range} is partly shared and partly private; make it one of them.");
    }

    private sealed record State(IReadOnlyList<RamBlock> Blocks, AddressMap Map, Dictionary<string, RamBlock> ByName);
}
