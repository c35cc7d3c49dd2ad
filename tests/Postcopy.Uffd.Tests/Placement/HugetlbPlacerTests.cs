using Postcopy.Uffd.Interop;
using Postcopy.Uffd.Tests.Destination;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Placement;

[Collection(HugePagesCollection.Name)]
public sealed class HugetlbPlacerTests
{
    private const int Limit = 60_000;
    private const int Huge = 2 << 20;
    private const int Records = 512;

    [Theory(Timeout = Limit)]
    [InlineData(false)]
    [InlineData(true)]
    public async Task ZerosAndBytesArePlacedByCopy(bool shared) => await Task.Run(() =>
    {
        HugePages.Require();
        using PlacerBench bench = new(RawMapping.Hugetlb(4, shared));
        Assert.False(bench.Block.Primary!.Supports(UffdOperations.Zeropage));
        Assert.Equal(PlaceOutcome.Placed, bench.Placer.PlaceZero(bench.Block, 0, 2 * Huge).Outcome);
        Assert.Equal(PlaceOutcome.Placed, bench.Place(2, 2).Outcome);
        bench.AssertZero(1);
        bench.AssertContent(3, 3);
        Assert.Equal((2L * Huge, 2L), (bench.Placer.Statistics.ZeroBytes, bench.Placer.Statistics.ZeroPages));
        Assert.Equal((2L * Huge, 2L), (bench.Placer.Statistics.CopiedBytes, bench.Placer.Statistics.CopiedPages));
        Assert.Equal(0, bench.Block.MissingPages);
    });

    [Theory(Timeout = Limit)]
    [InlineData(false, UffdModes.Missing)]
    [InlineData(true, UffdModes.Missing | UffdModes.Minor)]
    public async Task AnExhaustedPoolIsNamedAndNothingIsMarked(bool shared, UffdModes modes) => await Task.Run(() =>
    {
        HugePages.Require();
        int there = (int)HugePages.Available;
        using PlacerBench bench = new(RawMapping.Hugetlb(there + 2, shared, reserve: false), modes, deadline: TimeSpan.FromMilliseconds(60));
        Assert.True(bench.Placer.PlaceZero(bench.Block, 0, (long)there * Huge).IsReceived);

        PlaceResult result = bench.Place(there);

        Assert.Equal((PlaceOutcome.OutOfHugePages, (long)there * Huge), (result.Outcome, result.Offset));
        Assert.False(bench.Block.Received.Test(there));
        Assert.Equal(2, bench.Block.MissingPages);

        // A page that comes free goes to the one that waits for it.
        bench.Block.Discard(new PageRange(0, Huge));
        Assert.Equal(PlaceOutcome.Placed, bench.Place(there).Outcome);
        bench.AssertContent(there, there);
    });

    [Fact(Timeout = Limit)]
    public async Task TwoPlacersRacingForTheLastHugePageBothSucceed() => await Task.Run(() =>
    {
        HugePages.Require();
        int there = (int)HugePages.Available;
        using PlacerBench bench = new(RawMapping.Hugetlb(there, shared: false));
        for (int round = 0; round < 10; round++)
        {
            using Barrier start = new(2);
            Task<long>[] placers = [.. Enumerable.Range(0, 2).Select(_ => Task.Factory.StartNew(() =>
            {
                long placed = 0;
                nuint source = bench.Source(7, 1);
                start.SignalAndWait();
                for (int page = 0; page < there; page++)
                {
                    PlaceResult result = bench.Placer.Place(bench.Block, (long)page * Huge, source, Huge);
                    Assert.True(result.IsReceived, result.ToString());
                    placed += result.PagesPlaced;
                }

                Pages.Free(source);
                return placed;
            }, TaskCreationOptions.LongRunning))];
            Assert.Equal(there, Task.WhenAll(placers).WaitAsync(Deadline.Default).GetAwaiter().GetResult().Sum());
            bench.Block.Discard(new PageRange(0, (long)there * Huge));
        }
    });

    [Fact(Timeout = Limit)]
    public async Task AHostPageIsPutTogetherFromItsRecords() => await Task.Run(() =>
    {
        HugePages.Require();
        using PlacerBench bench = new(RawMapping.Hugetlb(3, shared: false));
        using HostPageAssembler assembler = bench.Placer.CreateAssembler();
        nuint page = bench.Source(1, 1);

        // Content, with holes of zeros: the second page reuses a buffer that the first made dirty.
        for (int round = 0; round < 2; round++)
        {
            for (int i = 0; i < Records; i++)
            {
                bool zero = round == 1 && i % 3 == 0;
                AssemblyOutcome outcome = zero
                    ? assembler.AddZero(bench.Block, ((long)round * Huge) + (i * 4096), out PlaceResult result)
                    : assembler.Add(bench.Block, ((long)round * Huge) + (i * 4096), page + (nuint)(i * 4096), out result);
                Assert.Equal(i == Records - 1 ? AssemblyOutcome.Placed : AssemblyOutcome.Incomplete, outcome);
                Assert.Equal(i < Records - 1, assembler.IsPartial);
                if (outcome == AssemblyOutcome.Placed)
                {
                    Assert.Equal(PlaceOutcome.Placed, result.Outcome);
                }
            }
        }

        bench.AssertContent(0, 1);
        byte[] expected = Pages.Expected(1, Huge);
        for (int i = 0; i < Records; i += 3)
        {
            expected.AsSpan(i * 4096, 4096).Clear();
        }

        byte[] seen = new byte[Huge];
        bench.Block.Read(Huge, seen);
        Assert.True(seen.AsSpan().SequenceEqual(expected), "Old bytes of the buffer came through (hazard H41).");
        Pages.Free(page);
    });

    [Fact(Timeout = Limit)]
    public async Task AHostPageOfZerosIsPlacedAsZeros() => await Task.Run(() =>
    {
        HugePages.Require();
        using PlacerBench bench = new(RawMapping.Hugetlb(1, shared: false));
        using HostPageAssembler assembler = bench.Placer.CreateAssembler();
        for (int i = 0; i < Records; i++)
        {
            // Told as zeros, or as bytes that happen to be zeros.
            _ = i % 2 == 0
                ? assembler.AddZero(bench.Block, i * 4096, out _)
                : assembler.Add(bench.Block, i * 4096, ZeroSource.Address, out _);
        }

        Assert.Equal(Huge, bench.Placer.Statistics.ZeroBytes);
        Assert.Equal(0, bench.Placer.Statistics.CopiedBytes);
        bench.AssertZero(0);
    });

    [Fact(Timeout = Limit)]
    public async Task OutOfSequenceRecordsAreRefusedAndNothingIsTaken() => await Task.Run(() =>
    {
        HugePages.Require();
        using PlacerBench bench = new(RawMapping.Hugetlb(2, shared: false));
        using HostPageAssembler assembler = bench.Placer.CreateAssembler();
        nuint page = bench.Source(1, 1);
        Assert.Equal(AssemblyOutcome.OutOfSequence, assembler.Add(bench.Block, 4096, page, out _));
        Assert.Equal(AssemblyOutcome.OutOfSequence, assembler.Add(bench.Block, -4096, page, out _));
        Assert.Equal(AssemblyOutcome.OutOfSequence, assembler.AddZero(bench.Block, 2L * Huge, out _));
        Assert.False(assembler.IsPartial);
        Assert.Equal(AssemblyOutcome.Incomplete, assembler.Add(bench.Block, 0, page, out _));
        Assert.Equal(AssemblyOutcome.OutOfSequence, assembler.Add(bench.Block, 0, page, out _));
        Assert.Equal(AssemblyOutcome.OutOfSequence, assembler.Add(bench.Block, 8192, page, out _));
        Assert.Equal(AssemblyOutcome.OutOfSequence, assembler.AddZero(bench.Block, Huge, out _));
        Assert.Equal(AssemblyOutcome.OutOfSequence, assembler.Add(bench.Block, 4097, page, out _));
        Assert.True(assembler.IsPartial);
        for (int i = 1; i < Records; i++)
        {
            _ = assembler.Add(bench.Block, i * 4096, page + (nuint)(i * 4096), out _);
        }

        bench.AssertContent(0, 1);
        Pages.Free(page);
    });

    [Fact(Timeout = Limit)]
    public async Task AfterAResetTheSourceBeginsThePageAgain() => await Task.Run(() =>
    {
        HugePages.Require();
        using PlacerBench bench = new(RawMapping.Hugetlb(1, shared: false));
        using HostPageAssembler assembler = bench.Placer.CreateAssembler();
        nuint page = bench.Source(1, 1);
        for (int i = 0; i < 100; i++)
        {
            _ = assembler.Add(bench.Block, i * 4096, page + (nuint)(i * 4096), out _);
        }

        assembler.Reset();
        Assert.False(assembler.IsPartial);
        for (int i = 0; i < Records; i++)
        {
            _ = assembler.AddZero(bench.Block, i * 4096, out _);
        }

        bench.AssertZero(0);
        Pages.Free(page);
    });
}
