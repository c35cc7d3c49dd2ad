using System.Globalization;
using Postcopy.Uffd.Interop;
using Postcopy.Uffd.Tests.Destination;
using Postcopy.Uffd.Tests.Infrastructure;
using Postcopy.Uffd.Tests.Placement;

namespace Postcopy.Uffd.Tests.Ram;

/// <summary>Measures the process: nothing else may run meanwhile.</summary>
[Collection(TimedTests.Name)]
public sealed class BookkeepingTests
{
    [Fact]
    public void ABlockThatIsGivenBackLeavesNoBookkeepingBehind()
    {
        // Address space only: 64 GiB have three bitmaps of 2 MiB, and claims of 128 KiB.
        const long Length = 64L << 30;
        using RawMapping mapping = RawMapping.Anonymous((int)(Length >> 12), Libc.MAP_NORESERVE);
        List<RamBlock> kept = [];
        long before = AddressSpaceBytes();
        for (int i = 0; i < 1000; i++)
        {
            using RamBlockRegistry registry = new();
            kept.Add(registry.Add(new RamBlockSpec { Name = "ram", HostAddress = mapping.Address, UsedLength = Length }));
        }

        // Any one of the four left behind would be 128 MiB at the least, and no finalizer comes: the blocks are kept.
        Assert.InRange(AddressSpaceBytes() - before, long.MinValue, 96 << 20);
        GC.KeepAlive(kept);
    }

    [Fact]
    public void ABlockKeepsAtMostThreeBitsAPage()
    {
        // Address space only: a guest of 1 TiB.
        const long Length = 1L << 40;
        using RawMapping mapping = RawMapping.Anonymous((int)(Length >> 12), Libc.MAP_NORESERVE);
        using RamBlockRegistry registry = new();
        long before = ResidentBytes();
        RamBlock block = registry.Add(new RamBlockSpec { Name = "ram", HostAddress = mapping.Address, UsedLength = Length });

        // Every page was waited for and placed, every stretch was claimed, and there is a word for requests that the link did not take.
        _ = block.Requested.SetRange(0, block.PageCount);
        Assert.Equal(block.PageCount, block.MarkReceived(0, block.PageCount));
        for (long stretch = 0; stretch < block.Claims.Count; stretch++)
        {
            Assert.True(block.Claims.TryAcquireShared(stretch));
            block.Claims.ReleaseShared(stretch);
        }

        Random random = new(1);
        for (int i = 0; i < 1024; i++)
        {
            _ = block.Unsent.TestAndSet(random.NextInt64(block.PageCount));
        }

        double bits = 8.0 * (ResidentBytes() - before) / block.PageCount;
        TestContext.Current.TestOutputHelper?.WriteLine($"{bits:0.00} bits a page");
        Assert.InRange(bits, 2, 3);
    }

    [Fact(Timeout = 60_000)]
    public async Task AWindowThatIsGivenBackLeavesNoStagingBehind() => await Task.Run(() =>
    {
        using StretchBench bench = new(2);
        nuint source = bench.Source(0, 1);
        List<StagingWindow> kept = [];
        long before = AddressSpaceBytes();
        for (int i = 0; i < 100; i++)
        {
            StagingWindow window = bench.Placer.CreateWindow();
            window.Add(bench.Block, 0, source, 1);
            window.Add(bench.Block, StretchBench.Bytes, source, 1);
            Assert.True(window.IsFilling);
            Assert.True(window.Flush().IsReceived);
            window.Dispose();
            kept.Add(window);
            bench.Block.Discard(new PageRange(0, 2 * StretchBench.Bytes));
        }

        // One of its two huge pages, each time, would be 200 MiB.
        Assert.InRange(AddressSpaceBytes() - before, long.MinValue, 96 << 20);
        GC.KeepAlive(kept);
        Pages.Free(source);
    });

    [Fact(Timeout = 60_000)]
    public async Task APlacerThatIsGivenBackLeavesNoStagingBehind() => await Task.Run(() =>
    {
        using StretchBench bench = new(1);
        nuint source = bench.Source(0, 512);
        List<PostcopyPlacer> kept = [];
        long before = AddressSpaceBytes();
        for (int i = 0; i < 100; i++)
        {
            PostcopyPlacer placer = new();
            Assert.True(placer.PlaceStretch(bench.Block, 0, source).IsReceived);
            placer.Dispose();
            kept.Add(placer);
            bench.Block.Discard(new PageRange(0, StretchBench.Bytes));
        }

        Assert.InRange(AddressSpaceBytes() - before, long.MinValue, 96 << 20);
        GC.KeepAlive(kept);
        Pages.Free(source);
    });

    private static long AddressSpaceBytes() => Statm(0);

    private static long ResidentBytes() => Statm(1);

    private static long Statm(int field) => long.Parse(File.ReadAllText("/proc/self/statm").Split(' ')[field], CultureInfo.InvariantCulture) * 4096;
}
