namespace Postcopy.Uffd;

/// <summary>One descriptor that the fault thread reads, and the blocks as that descriptor's address space has them.</summary>
internal sealed class FaultSource
{
    private readonly RamBlockRegistry? _registry;
    private AddressMap _map = AddressMap.Empty;

    internal FaultSource(IUffdKernel kernel, int descriptor, RamBlockRegistry? registry, bool isPrimary)
    {
        Kernel = kernel;
        Descriptor = descriptor;
        _registry = registry;
        IsPrimary = isPrimary;
    }

    internal IUffdKernel Kernel { get; }

    internal int Descriptor { get; }

    /// <summary>True for the descriptor through which pages are placed; false for mirrors in other processes.</summary>
    internal bool IsPrimary { get; }

    internal AddressMap Map => _registry?.Map ?? Volatile.Read(ref _map);

    internal void Add(RamBlock block, nuint address) =>
        Volatile.Write(ref _map, new AddressMap([.. _map.Entries, new AddressMap.Entry(new AddressRange(address, (nuint)block.UsedLength), block)]));
}
