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

    private static long AddressSpaceBytes() => long.Parse(File.ReadAllText("/proc/self/statm").Split(' ')[0], CultureInfo.InvariantCulture) * 4096;
}
