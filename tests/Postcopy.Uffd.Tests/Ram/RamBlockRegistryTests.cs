using Postcopy.Uffd.Interop;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Ram;

public sealed class RamBlockRegistryTests
{
    private static readonly RamBlockSpec s_plain = new() { Name = "ram" };

    [Fact]
    public void EveryBadSpecificationIsRefusedWithWhatIsWrong()
    {
        using GuestMemory memory = GuestMemory.Allocate(new GuestMemoryOptions { Length = 8 * 4096 });
        using RawMapping raw = RawMapping.Anonymous(8);
        using RawMapping shared = RawMapping.Memfd(8);
        using RamBlockRegistry registry = new();
        ulong address = raw.Address;
        _ = registry.Add(new RamBlockSpec { Name = "first", HostAddress = raw.Address, UsedLength = 2 * 4096 });

        Refused("1 to 255 bytes of UTF-8; this one has 0", s_plain with { Name = "", Memory = memory });
        Refused("1 to 255 bytes of UTF-8; this one has 0", s_plain with { Name = null!, Memory = memory });
        Refused("1 to 255 bytes of UTF-8; this one has 256", s_plain with { Name = new string('n', 256), Memory = memory });
        Refused("1 to 255 bytes of UTF-8; this one has 258", s_plain with { Name = string.Concat(Enumerable.Repeat("\u20ac", 86)), Memory = memory });
        Refused("There is a RAM block 'first' already", s_plain with { Name = "first", Memory = memory });
        Refused("has a used length of 4097 bytes; it must be a multiple of its page size (4 KiB)", s_plain with { Memory = memory, UsedLength = 4097 });
        Refused("has a used length of 0 bytes", s_plain with { HostAddress = raw.Address });
        Refused("has a used length of -4096 bytes", s_plain with { HostAddress = raw.Address, UsedLength = -4096 });
        Refused("does not fit into its memory of 32768 bytes", s_plain with { Memory = memory, UsedLength = 9 * 4096 });
        Refused("does not fit into its memory of 32768 bytes", s_plain with { Memory = memory, MemoryOffset = 4096, UsedLength = 8 * 4096 });
        Refused("does not fit into its memory of 32768 bytes", s_plain with { Memory = memory, MemoryOffset = -4096, UsedLength = 4096 });
        Refused("has a used length of 0 bytes", s_plain with { Memory = memory, MemoryOffset = 8 * 4096 });
        Refused("names both a memory and a host address", s_plain with { Memory = memory, HostAddress = raw.Address });
        Refused("is to have pages of 2 MiB, but its memory has pages of 4 KiB", s_plain with { Memory = memory, PageSize = PageSize.TwoMiB });
        Refused("is to have pages of 1 bytes; this host's pages have 4 KiB", s_plain with { HostAddress = raw.Address, UsedLength = 4096, PageSize = default(PageSize) });
        Refused($"starts at 0x{address + 100:x}, which is not a multiple of its page size (4 KiB)", s_plain with { HostAddress = raw.Address + 100, UsedLength = 4096 });
        Refused($"overlaps 'first' at [0x{address:x}, 0x{address + 8192:x})", s_plain with { HostAddress = raw.Address + 4096, UsedLength = 2 * 4096 });
        Refused("is not mapped throughout; 0 of 4096 bytes are", s_plain with { HostAddress = 0x10000, UsedLength = 4096 });
        Assert.Single(registry.Blocks);

        void Refused(string why, RamBlockSpec spec)
        {
            RamBlockException refused = Assert.Throws<RamBlockException>(() => registry.Add(spec));
            Assert.Contains(why, refused.Message, StringComparison.Ordinal);
            Assert.Equal(spec.Name, refused.BlockName);
        }
    }

    [Fact]
    public unsafe void PagesThatAreLargerThanTheMemorysAreRefused()
    {
        // A COPY could stop in the middle of such a page, and half of it would count as present.
        using GuestMemory memory = GuestMemory.Allocate(new GuestMemoryOptions { Length = 4 << 20 });
        using RamBlockRegistry registry = new();
        RamBlockException refused = Assert.Throws<RamBlockException>(() => registry.Add(new RamBlockSpec
        {
            Name = "ram",
            HostAddress = memory.Address,
            UsedLength = 4 << 20,
            PageSize = PageSize.TwoMiB,
        }));
        Assert.Contains("is not hugetlb memory; leave PageSize out", refused.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void AMixtureOfSharedAndPrivateIsRefused()
    {
        using RawMapping all = RawMapping.Anonymous(2);
        using RawMapping file = RawMapping.Memfd(1);
        Assert.Equal(all.Page(1), Libc.mmap(all.Page(1), 4096, Libc.PROT_READ | Libc.PROT_WRITE, Libc.MAP_SHARED | Libc.MAP_FIXED, file.File!, 0));
        using RamBlockRegistry registry = new();
        RamBlockException refused = Assert.Throws<RamBlockException>(() => registry.Add(s_plain with { HostAddress = all.Address, UsedLength = 8192 }));
        Assert.Contains("is partly shared and partly private; make it one of them", refused.Message, StringComparison.Ordinal);
        Assert.True(registry.Add(s_plain with { HostAddress = all.Page(1), UsedLength = 4096 }).IsShared);
        Assert.False(registry.Add(s_plain with { Name = "private", HostAddress = all.Address, UsedLength = 4096 }).IsShared);
    }

    [Fact]
    public void NamesOf255BytesAndNeighboursAreAccepted()
    {
        using RawMapping raw = RawMapping.Anonymous(2);
        using RamBlockRegistry registry = new();
        RamBlock first = registry.Add(new RamBlockSpec { Name = new string('n', 255), HostAddress = raw.Address, UsedLength = 4096 });
        RamBlock second = registry.Add(new RamBlockSpec { Name = "x", HostAddress = raw.Page(1), UsedLength = 4096 });
        Assert.Equal(255, first.NameUtf8.Length);
        Assert.True(registry.TryFind(raw.Page(1), out RamBlock? found, out long offset));
        Assert.Equal((second, 0L), (found, offset));
        Assert.True(registry.TryFind(raw.Page(1) - 1, out found, out offset));
        Assert.Equal((first, 4095L), (found, offset));
        Assert.False(registry.TryFind(raw.Page(1) + 4096, out _, out _));
        Assert.False(registry.TryFind(raw.Address - 1, out _, out _));
        Assert.Equal(8192, registry.TotalLength);
    }

    [Fact]
    public void RemovedBlocksAreGoneAndFrozenRegistriesRefuse()
    {
        using RawMapping raw = RawMapping.Anonymous(2);
        using RamBlockRegistry registry = new();
        using RamBlockRegistry other = new();
        RamBlock block = registry.Add(s_plain with { HostAddress = raw.Address, UsedLength = 8192 });
        Assert.Contains("is not in this registry", Assert.Throws<RamBlockException>(() => other.Remove(block)).Message, StringComparison.Ordinal);
        registry.Freeze();
        Assert.Contains("cannot be removed while a migration is listening", Assert.Throws<InvalidOperationException>(() => registry.Remove(block)).Message, StringComparison.Ordinal);
        Assert.Contains("cannot be added while", Assert.Throws<InvalidOperationException>(() => registry.Add(s_plain with { Name = "b" })).Message, StringComparison.Ordinal);
        registry.Thaw();
        registry.Remove(block);
        Assert.False(registry.TryFind("ram", out _));
        Assert.False(registry.TryFind(raw.Address, out _, out _));
    }

    [Fact]
    public void ABlockThatWasHandedOverIsTakenBackWithWhatTheOtherHasPlaced()
    {
        const int Count = 100;
        using RawMapping raw = RawMapping.Anonymous(Count);
        using RamBlockRegistry registry = new();
        RamBlock block = registry.Add(new RamBlockSpec { Name = "ram", HostAddress = raw.Address, UsedLength = (long)raw.Length });
        nuint shared = NativeZeroMemory.Map((nuint)PageBitmap.BytesFor(Count));
        _ = block.MarkReceived(3, 1);
        block.HandOver(shared);
        Assert.True(block.IsHandedOver);
        _ = block.Received.TestAndSet(70);
        Assert.Equal(Count - 2, block.MissingPages);

        block.TakeBack();
        NativeZeroMemory.Unmap(shared, (nuint)PageBitmap.BytesFor(Count));

        Assert.Equal((false, true, true, Count - 2), (block.IsHandedOver, block.Received.Test(3), block.Received.Test(70), (int)block.MissingPages));
        _ = block.MarkReceived(71, 1);
        block.TakeBack();
        Assert.Equal((3, Count - 3), ((int)block.Received.CountSet(), (int)block.MissingPages));
    }

    [Fact]
    public void AThousandBlocksAreFoundWithoutAllocating()
    {
        const int count = 1024;
        using GuestMemory memory = GuestMemory.Allocate(new GuestMemoryOptions { Length = count * 2 * 4096L });
        using RamBlockRegistry registry = new();
        for (int i = 0; i < count; i++)
        {
            // Every second page, from the end: order of adding is not order of addresses.
            _ = registry.Add(new RamBlockSpec { Name = $"block{i}", Memory = memory, MemoryOffset = (count - 1 - i) * 8192L, UsedLength = 4096 });
        }

        long before = GC.GetAllocatedBytesForCurrentThread();
        int wrong = 0;
        for (int i = 0; i < count; i++)
        {
            nuint address = memory.Address + (nuint)((count - 1 - i) * 8192L) + 123;
            wrong += registry.TryFind(address, out RamBlock? block, out long offset) && block == registry.Blocks[i] && offset == 123 ? 0 : 1;
            wrong += registry.TryFind(address + 4096, out _, out _) ? 1 : 0;
        }

        Assert.Equal(before, GC.GetAllocatedBytesForCurrentThread());
        Assert.Equal(0, wrong);
    }
}
