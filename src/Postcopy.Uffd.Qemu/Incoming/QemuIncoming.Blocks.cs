namespace Postcopy.Uffd.Qemu;

/// <content>The source's block list and ours.</content>
public sealed partial class QemuIncoming
{
    private void MatchBlocks()
    {
        RamBlock[] blocks = new RamBlock[_stream.Blocks.Count];
        foreach (StreamRamBlock wanted in _stream.Blocks)
        {
            if (!_destination.Blocks.TryFind(wanted.Name, out RamBlock? block))
            {
                block = _destination.Blocks.Add(_options.CreateBlock?.Invoke(wanted) ?? DefaultBlock(wanted));
            }

            if (block.UsedLength != wanted.Length || block.PageSize.Bytes != wanted.PageSize)
            {
                throw new QemuIncomingException(
                    $"RAM block '{wanted.Name}' has {wanted.Length} bytes in pages of {wanted.PageSize} bytes at the source, and {block.UsedLength} bytes in pages of " +
                    $"{block.PageSize.Bytes} bytes here; both must agree.", sourceMayResume: true);
            }

            blocks[wanted.Index] = block;
            _streamBlocks[block] = wanted;
        }

        if (_destination.Blocks.Blocks.FirstOrDefault(b => !_streamBlocks.ContainsKey(b)) is { } extra)
        {
            throw new QemuIncomingException($"RAM block '{extra.Name}' of this host is not in the source's list; its pages would never come.", sourceMayResume: true);
        }

        _blocks = blocks;
    }

    private static RamBlockSpec DefaultBlock(StreamRamBlock wanted) => new()
    {
        Name = wanted.Name,
        Memory = GuestMemory.Allocate(new GuestMemoryOptions
        {
            Length = wanted.Length,
            Kind = wanted.PageSize > PageSize.Host.Bytes ? GuestMemoryKind.Hugetlb : GuestMemoryKind.Anonymous,
            PageSize = new PageSize(wanted.PageSize),
        }),
    };
}
