using System.Globalization;
using Postcopy.Uffd.Interop;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Memory;

/// <summary>Guest memory of huge pages.</summary>
[Collection(HugePagesCollection.Name)]
public sealed class HugetlbMemoryTests
{
    private const string GigantPool = "/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages";

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void HugePagesAreAlignedAdvisedAndReserved(bool shared)
    {
        HugePages.Require();
        long before = HugePages.Available;
        using GuestMemory memory = GuestMemory.Allocate(new()
        {
            Kind = GuestMemoryKind.Hugetlb, Shared = shared, Length = 4 << 20, GuestPhysicalAddress = 6 << 20,
        });

        Assert.Equal(PageSize.TwoMiB, memory.PageSize);
        Assert.Equal((nuint)0, memory.Address % (2 << 20));
        Assert.Equal(shared, memory.File is not null);
        // Reserved, so the pool cannot run dry under a missing page (hazard H7).
        Assert.Equal(before - 2, HugePages.Available);
        Assert.Equal([true, true, false, false], GuestMemoryTests.Has(GuestMemoryTests.Flags(memory)));
        memory.MarkComplete();
        Assert.Equal([false, false, false, false], GuestMemoryTests.Has(GuestMemoryTests.Flags(memory)));
        memory.Write((4 << 20) - 1, [3]);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void AnEmptyPoolIsNamedWithWhatIsNeededAndTheRemedy(bool shared)
    {
        HugePages.Require();
        long pages = HugePages.Available + 5;
        long total = HugePagePool.Read(PageSize.TwoMiB).Total;

        GuestMemoryException e = Assert.Throws<GuestMemoryException>(() => GuestMemory.Allocate(new()
        {
            Kind = GuestMemoryKind.Hugetlb, Shared = shared, Length = pages << 21,
        }));

        Assert.Equal(Errno.ENOMEM, e.Errno);
        Assert.Contains("pool of 2 MiB pages has 8 available", e.Message, StringComparison.Ordinal);
        Assert.Contains($"{pages} are needed", e.Message, StringComparison.Ordinal);
        Assert.Contains($"echo {total + 5} > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void APageSizeWithoutAPoolSaysSo()
    {
        GuestMemoryException e = Assert.Throws<GuestMemoryException>(() => GuestMemory.Allocate(new()
        {
            Kind = GuestMemoryKind.Hugetlb, PageSize = new PageSize(1 << 16), Length = 1 << 16,
        }));

        Assert.Contains("no pool of 64 KiB pages", e.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(3)]
    public void PagesOf1GiBAreAlignedTo1GiBWhereThereAreAny(ulong guestGigabyte)
    {
        Requires.Root("A pool of 1 GiB pages for the test");
        GuestMemoryOptions options = new()
        {
            Kind = GuestMemoryKind.Hugetlb, PageSize = PageSize.OneGiB, Length = 1 << 30, GuestPhysicalAddress = guestGigabyte << 30,
        };
        if (!File.Exists(GigantPool))
        {
            // A processor without them (pdpe1gb), which nothing on this side can cure.
            GuestMemoryException none = Assert.Throws<GuestMemoryException>(() => GuestMemory.Allocate(options));
            Assert.Contains("no pool of 1 GiB pages", none.Message, StringComparison.Ordinal);
            return;
        }

        string before = File.ReadAllText(GigantPool).Trim();
        try
        {
            File.WriteAllText(GigantPool, "1");
            Assert.SkipUnless(int.Parse(File.ReadAllText(GigantPool), CultureInfo.InvariantCulture) >= 1,
                "No free gigabyte in one piece: reserve one at boot with hugepagesz=1G hugepages=1.");
            using GuestMemory memory = GuestMemory.Allocate(options);

            Assert.Equal((nuint)0, memory.Address % (1 << 30));
            using UffdHandle uffd = UffdHandle.Open(Requires.AnyKind);
            _ = uffd.Negotiate();
            Assert.Equal(UffdOperations.Wake | UffdOperations.Copy, uffd.Register(memory.Range, UffdModes.Missing).Operations & ~UffdOperations.Poison);
        }
        finally
        {
            File.WriteAllText(GigantPool, before);
        }
    }
}
