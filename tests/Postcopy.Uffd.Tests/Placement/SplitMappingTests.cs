using Postcopy.Uffd.Interop;
using Postcopy.Uffd.Tests.Destination;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Placement;

/// <summary>
/// One block that is several mappings of the kernel, as NUMA policies, advice and protection make them: no ioctl reaches
/// over such a border (hazard H16).
/// </summary>
public sealed class SplitMappingTests
{
    private const int Limit = 60_000;
    private const int Count = 24;
    private const int Border = 5;

    [Fact(Timeout = Limit)]
    public async Task ARunIsPlacedAcrossTheBorderAndWakesOnBothSides() => await Task.Run(() =>
    {
        using PlacerBench bench = new(Split(RawMapping.Anonymous(Count)));
        FaultingThread before = bench.Arena.Read(Border - 1);
        FaultingThread after = bench.Arena.Read(Border);

        PlaceResult result = bench.Place(0, Count);

        Assert.Equal((PlaceOutcome.Placed, (long)Count), (result.Outcome, result.PagesPlaced));
        Assert.Equal(DestinationBench.FirstByte(Border - 1), (byte)before.Result);
        Assert.Equal(DestinationBench.FirstByte(Border), (byte)after.Result);
        for (int page = 0; page < Count; page++)
        {
            bench.AssertContent(page, page);
        }
    });

    [Fact(Timeout = Limit)]
    public async Task ZerosReachAcrossTheBorder() => await Task.Run(() =>
    {
        using PlacerBench bench = new(Split(RawMapping.Anonymous(Count)));
        PlaceResult result = bench.Placer.PlaceZero(bench.Block, 0, Count * 4096);
        Assert.Equal((PlaceOutcome.Placed, (long)Count), (result.Outcome, result.PagesPlaced));
        bench.AssertZero(Border);
    });

    [Fact(Timeout = Limit)]
    public async Task PagesOfThePageCacheAreMappedAcrossTheBorder() => await Task.Run(() =>
    {
        Requires.Userfaultfd(UffdFeatures.MinorShmem);
        using PlacerBench bench = new(Split(RawMapping.Memfd(Count)), UffdModes.Missing | UffdModes.Minor, UffdFeatures.MinorShmem);
        using RawMapping alias = bench.Arena.Memory.Alias().Fill(3);
        PlaceResult result = bench.Placer.PlacePageCache(bench.Block, 0, Count * 4096);
        Assert.Equal((PlaceOutcome.Placed, (long)Count), (result.Outcome, result.PagesPlaced));
        Assert.Equal(3 + Border, FaultingThread.ReadByte(bench.Arena.Page(Border)));
    });

    [Fact(Timeout = Limit)]
    public async Task PoisonReachesAcrossTheBorder() => await Task.Run(() =>
    {
        Requires.Userfaultfd(UffdFeatures.Poison);
        using PlacerBench bench = new(Split(RawMapping.Anonymous(Count)), features: UffdFeatures.Poison);
        PlaceResult result = bench.Placer.PoisonMissing(bench.Block);
        Assert.Equal((PlaceOutcome.Placed, (long)Count), (result.Outcome, result.PagesPlaced));
        Assert.Equal(UffdOutcome.AlreadyPresent, bench.Arena.Uffd.Poison(bench.Arena.Page(Border), 4096).Outcome);
    });

    [Fact(Timeout = Limit)]
    public async Task WhatIsReallyNotRegisteredStillSaysSo() => await Task.Run(() =>
    {
        using PlacerBench bench = new(RawMapping.Anonymous(Count));
        bench.Arena.Uffd.Unregister(new AddressRange(bench.Arena.Page(Border), 4096));

        PlaceResult result = bench.Place(0, Count);

        Assert.Equal(PlaceOutcome.NotRegistered, result.Outcome);
        Assert.Equal(Border * 4096L, result.Offset);
        Assert.Equal(Border, result.PagesPlaced);
        Assert.False(bench.Block.Received.Test(Border));
    });

    [Fact(Timeout = Limit)]
    public async Task ADestinationOfSuchABlockCompletes() => await Task.Run(() =>
    {
        using RawMapping memory = Split(RawMapping.Anonymous(Count));
        PostcopyDestination destination = new(new PostcopyOptions { Open = Requires.AnyKind });
        RamBlock block = destination.Blocks.Add(new RamBlockSpec { Name = "ram", HostAddress = memory.Address, UsedLength = Count * 4096 });
        destination.Advise();
        destination.Listen(new QueueRequester());
        Assert.Equal(PlaceOutcome.Placed, destination.Placer.PlaceZero(block, 0, block.UsedLength).Outcome);
        _ = destination.CompleteAsync().WaitAsync(Deadline.Default).GetAwaiter().GetResult();
        destination.DisposeAsync().AsTask().Wait(Deadline.Default);
    });

    [Fact(Timeout = Limit)]
    public async Task AStretchWithTheBorderInItIsCopied() => await Task.Run(() =>
    {
        const int stretch = 512;
        using StretchBench bench = new(2);
        Assert.Equal(0, Libc.madvise(bench.Arena.Page(stretch / 2), stretch * 4096, Libc.MADV_DONTFORK));
        nuint source = bench.Source(0, stretch);

        PlaceResult result = bench.Placer.PlaceStretch(bench.Block, 0, source);

        Pages.Free(source);
        Assert.Equal((PlaceOutcome.Placed, (long)stretch), (result.Outcome, result.PagesPlaced));
        Assert.Equal(0, bench.Placer.Statistics.StretchesMoved);
        bench.AssertContent(0, stretch);
    });

    /// <summary>Advice that only the second part has makes two mappings of one.</summary>
    private static RawMapping Split(RawMapping memory)
    {
        Assert.Equal(0, Libc.madvise(memory.Page(Border), (Count - Border) * memory.PageSize, Libc.MADV_DONTFORK));
        Assert.Equal(2, ProcessMaps.Overlapping(memory.Range, withFlags: false).Count);
        return memory;
    }
}
