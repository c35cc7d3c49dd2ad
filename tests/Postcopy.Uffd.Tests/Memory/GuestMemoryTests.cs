using System.Diagnostics;
using Postcopy.Uffd.Interop;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Memory;

public sealed class GuestMemoryTests
{
    private const long MiB = 1 << 20;

    [Theory]
    [InlineData(GuestMemoryKind.Anonymous, 0, 8 * MiB)]
    [InlineData(GuestMemoryKind.Anonymous, 0x1000, 4096)]
    [InlineData(GuestMemoryKind.Anonymous, 0xff000, 3 * MiB)]
    [InlineData(GuestMemoryKind.Anonymous, 0x1_0000_0000, 5 * MiB)]
    [InlineData(GuestMemoryKind.Anonymous, 0x1ff000, 2 * MiB + 4096)]
    [InlineData(GuestMemoryKind.Memfd, 0, 4096)]
    [InlineData(GuestMemoryKind.Memfd, 0xc0000, 640 << 10)]
    [InlineData(GuestMemoryKind.Memfd, 0x1ff000, 4 * MiB)]
    public void HostAndGuestPhysicalAddressAgreeModulo2MiB(GuestMemoryKind kind, long guestPhysical, long length)
    {
        using GuestMemory memory = GuestMemory.Allocate(new() { Kind = kind, Length = length, GuestPhysicalAddress = (ulong)guestPhysical });

        Assert.Equal((ulong)guestPhysical % (ulong)(2 * MiB), memory.Address % (ulong)(2 * MiB));
        Assert.Equal(new AddressRange(memory.Address, (nuint)length), memory.Range);
        Assert.Equal(PageSize.Host, memory.PageSize);
        Assert.Equal(kind == GuestMemoryKind.Memfd, memory.IsShared);
        Assert.Equal(kind == GuestMemoryKind.Memfd, memory.File is not null);
        // All of it is mapped, and the address space that was reserved for the alignment is not kept.
        Assert.Equal((nuint)length, Lengths(memory.Range));
        memory.Write(length - 1, [7]);
        Assert.Equal([7], Read(memory, length - 1, 1));
    }

    [Theory]
    [InlineData(GuestMemoryKind.Anonymous)]
    [InlineData(GuestMemoryKind.Memfd)]
    public void IncompleteMemoryIsNotForkedNotDumpedAndHasNoHugePages(GuestMemoryKind kind)
    {
        using GuestMemory memory = GuestMemory.Allocate(new() { Kind = kind, Length = 4 * MiB });
        string incomplete = Flags(memory);
        memory.MarkComplete();
        string complete = Flags(memory);

        Assert.Equal([true, true, true, false], Has(incomplete));
        Assert.Equal([false, false, false, true], Has(complete));
    }

    [Fact]
    public void BadOptionsAreRefusedWithTheValueAndTheLimit()
    {
        Refused(new() { Length = 0 }, "0 bytes", "4 KiB");
        Refused(new() { Length = -4096 }, "-4096 bytes");
        Refused(new() { Length = 4097 }, "4097 bytes", "4 KiB");
        Refused(new() { Length = 2 * MiB, PageSize = PageSize.TwoMiB }, "Anonymous", "2 MiB");
        Refused(new() { Length = 2 * MiB, PageSize = PageSize.TwoMiB, Kind = GuestMemoryKind.Memfd }, "Memfd", "2 MiB");
        Refused(new() { Length = 2 * MiB, PageSize = PageSize.Host, Kind = GuestMemoryKind.Hugetlb }, "Hugetlb", "4 KiB");
        Refused(new() { Length = 3 * MiB, Kind = GuestMemoryKind.Hugetlb }, "3145728 bytes", "2 MiB");
        Refused(new() { Length = 2 * MiB, Kind = GuestMemoryKind.Hugetlb, GuestPhysicalAddress = 0x1000 }, "0x1000", "2 MiB");
        Refused(new() { Length = 4096, GuestPhysicalAddress = 0x10 }, "0x10", "4 KiB");
        Refused(new() { Length = 8192, GuestPhysicalAddress = ulong.MaxValue - 4095 }, "0xfffffffffffff000", "64 bits");
        Refused(new() { Length = 4096, Shared = true }, "private");
        Refused(new() { Length = 4096, Kind = (GuestMemoryKind)7 }, "7", "Anonymous");
        Refused(new() { Length = 4096, PageSize = default(PageSize) }, "page");
        Assert.Throws<ArgumentNullException>(() => GuestMemory.Allocate(null!));

        static void Refused(GuestMemoryOptions options, params string[] words)
        {
            ArgumentException e = Assert.ThrowsAny<ArgumentException>(() => GuestMemory.Allocate(options));
            Assert.All(words, w => Assert.Contains(w, e.Message, StringComparison.Ordinal));
        }
    }

    [Fact]
    public void MoreThanTheAddressSpaceIsRefusedWithTheRemedy()
    {
        GuestMemoryException e = Assert.Throws<GuestMemoryException>(() => GuestMemory.Allocate(new() { Length = 1L << 50 }));

        Assert.Equal((Errno.ENOMEM, "mmap"), (e.Errno, e.Operation));
        Assert.Contains("1125899906842624 bytes", e.Message, StringComparison.Ordinal);
        Assert.Contains("RLIMIT_AS", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void RangesOutsideAreRefused()
    {
        using GuestMemory memory = GuestMemory.Allocate(new() { Length = 8192 });
        byte[] buffer = new byte[100];

        Assert.Throws<ArgumentOutOfRangeException>(() => memory.Read(8192 - 99, buffer));
        Assert.Throws<ArgumentOutOfRangeException>(() => memory.Write(-1, buffer));
        Assert.Throws<ArgumentOutOfRangeException>(() => memory.Write(long.MaxValue, buffer));
        Assert.Throws<ArgumentOutOfRangeException>(() => memory.Populate(4096, 8192, forWriting: false));
        Assert.Throws<ArgumentException>(() => memory.Populate(1, 4096, forWriting: false));
        Assert.Throws<ArgumentException>(() => memory.Populate(0, 1, forWriting: true));
        memory.Read(8192, []);
    }

    [Theory]
    [InlineData(GuestMemoryKind.Anonymous)]
    [InlineData(GuestMemoryKind.Memfd)]
    public void PopulateBacksTheRangeAndNothingElse(GuestMemoryKind kind)
    {
        using GuestMemory memory = GuestMemory.Allocate(new() { Kind = kind, Length = 4 * 4096 });

        memory.Populate(4096, 2 * 4096, forWriting: true);

        Assert.Equal([false, true, true, false], Enumerable.Range(0, 4).Select(i => Layer1.CopyTests.IsResident(memory.Address + (nuint)(i * 4096))));
    }

    [Fact]
    public void PopulateOfAPoisonedPageSaysSo()
    {
        Requires.Userfaultfd(UffdFeatures.Poison);
        using GuestMemory memory = GuestMemory.Allocate(new() { Length = 4096 });
        using UffdHandle uffd = UffdHandle.Open(Requires.AnyKind);
        _ = uffd.Negotiate(UffdFeatures.Poison);
        _ = uffd.Register(memory.Range, UffdModes.Missing);
        Assert.True(uffd.Poison(memory.Address, 4096).IsDone);

        GuestMemoryException e = Assert.Throws<GuestMemoryException>(() => memory.Populate(0, 4096, forWriting: false));

        Assert.Contains(e.Errno, new[] { Errno.EFAULT, Errno.EHWPOISON });
        Assert.Contains("poisoned", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void PopulateThroughAUserModeOnlyDescriptorSaysSo()
    {
        Requires.Userfaultfd();
        using GuestMemory memory = GuestMemory.Allocate(new() { Length = 4096 });
        using UffdHandle uffd = Requires.UserModeOnly();
        _ = uffd.Negotiate();
        _ = uffd.Register(memory.Range, UffdModes.Missing);

        GuestMemoryException e = Assert.Throws<GuestMemoryException>(() => memory.Populate(0, 4096, forWriting: true));

        Assert.Contains("user mode only", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void DisposedMemoryRefusesEverything()
    {
        GuestMemory memory = GuestMemory.Allocate(new() { Kind = GuestMemoryKind.Memfd, Length = 4096 });
        AddressRange range = memory.Range;
        memory.Dispose();

        Assert.Throws<ObjectDisposedException>(() => memory.Read(0, new byte[1]));
        Assert.Throws<ObjectDisposedException>(() => memory.Write(0, new byte[1]));
        Assert.Throws<ObjectDisposedException>(() => memory.Populate(0, 4096, forWriting: false));
        Assert.Throws<ObjectDisposedException>(() => memory.MarkComplete());
        Assert.True(memory.File!.IsClosed);
        Assert.NotEqual((nuint)0, range.Length);
    }

    [Fact]
    public void ReadersOfAMissingPageDoNotHoldUpACollection()
    {
        // Holds in every build, but only a Release build can show the opposite: unoptimised code can be stopped at each
        // instruction, so a managed dereference of a missing page hangs in optimised code alone (tried: -c Release).
        Requires.KernelFaults();
        string[] lines = ChildProcess.Run(CollectWhileReadWriteAndPopulateWait).Split('\n', StringSplitOptions.RemoveEmptyEntries);

        Assert.Equal(["collected while 3 threads waited", "read 90, wrote, populated"], lines);
    }

    private static void CollectWhileReadWriteAndPopulateWait(ChildScenario child)
    {
        using GuestMemory memory = GuestMemory.Allocate(new() { Length = 3 * 4096 });
        using RawMapping source = RawMapping.Anonymous(1).Fill(90);
        using UffdHandle uffd = UffdHandle.Open(Requires.AnyKind);
        _ = uffd.Negotiate();
        _ = uffd.Register(memory.Range, UffdModes.Missing);
        byte[] read = new byte[1];
        Thread[] threads =
        [
            new(() => memory.Read(0, read)),
            new(() => memory.Write(4096, [1])),
            new(() => memory.Populate(8192, 4096, forWriting: true)),
        ];
        foreach (Thread t in threads)
        {
            t.IsBackground = true;
            t.Start();
        }

        HashSet<nuint> faults = [];
        Span<UffdMessage> one = new UffdMessage[1];
        while (faults.Count < 3)
        {
            if (uffd.Read(one, out _) == 1)
            {
                _ = faults.Add(one[0].Address);
            }
        }

        // A thread that waited in cooperative mode would stop this for good: nobody places its page meanwhile. The
        // child's alarm(2) ends it then.
        long start = Stopwatch.GetTimestamp();
        for (int i = 0; i < 5; i++)
        {
            GC.Collect();
        }

        Assert.True(Stopwatch.GetElapsedTime(start) < TimeSpan.FromSeconds(10));
        child.Say($"collected while {threads.Count(t => t.IsAlive)} threads waited");
        for (nuint page = 0; page < 3; page++)
        {
            Assert.True(uffd.Copy(memory.Address + (page * 4096), source.Address, 4096).IsDone);
        }

        Assert.All(threads, t => Assert.True(t.Join(TimeSpan.FromSeconds(10))));
        child.Say($"read {read[0]}, wrote, populated");
    }

    internal static bool[] Has(string flags) => [.. new[] { " dc", " dd", " nh", " hg" }.Select(f => flags.Contains(f, StringComparison.Ordinal))];

    internal static string Flags(GuestMemory memory) => Assert.Single(ProcessMaps.Overlapping(memory.Range, withFlags: true)).Flags;

    private static nuint Lengths(AddressRange range) =>
        ProcessMaps.Overlapping(range, withFlags: false).Aggregate((nuint)0, (sum, m) => sum + m.Range.Intersect(range).Length);

    private static byte[] Read(GuestMemory memory, long offset, int count)
    {
        byte[] buffer = new byte[count];
        memory.Read(offset, buffer);
        return buffer;
    }
}
