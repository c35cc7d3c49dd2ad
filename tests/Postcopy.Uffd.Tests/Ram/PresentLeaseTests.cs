using Postcopy.Uffd.Tests.Destination;
using Postcopy.Uffd.Tests.Infrastructure;
using Postcopy.Uffd.Tests.Placement;

namespace Postcopy.Uffd.Tests.Ram;

public sealed class PresentLeaseTests
{
    private const int Limit = 60_000;

    [Fact(Timeout = Limit)]
    public async Task ARangeWithAMissingPageIsRefusedAndNamesIt() => await Task.Run(() =>
    {
        using PlacerBench bench = new(RawMapping.Anonymous(8));
        _ = bench.Place(0, 3);
        InvalidOperationException refused = Assert.Throws<InvalidOperationException>(() => bench.Block.LeasePresent(100, 3 * 4096).Dispose());
        Assert.Contains("page at offset 12288 of RAM block 'ram' is missing; wait with EnsurePresentAsync", refused.Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentOutOfRangeException>(() => bench.Block.LeasePresent(0, 9 * 4096).Dispose());
        Assert.Throws<ArgumentOutOfRangeException>(() => bench.Block.LeasePresent(-1, 10).Dispose());

        // A refused lease holds nothing: this would wait for ever.
        bench.Block.Discard(new PageRange(0, 8 * 4096));
    });

    [Fact(Timeout = Limit)]
    public async Task ALeaseShowsTheBytesAndKeepsDiscardsAway() => await Task.Run(() =>
    {
        using PlacerBench bench = new(RawMapping.Anonymous(8));
        _ = bench.Place(0, 8);
        Task discard;
        using (PresentLease lease = bench.Block.LeasePresent(4096 + 8, 4096))
        {
            discard = Task.Run(() => bench.Block.Discard(new PageRange(0, 4096)));
            Assert.False(discard.Wait(TimeSpan.FromMilliseconds(50)));
            Assert.True(lease.Span[..100].SequenceEqual(Pages.Expected(1, 4096).AsSpan(8, 100)));
            Assert.True(bench.Block.Received.Test(0));
        }

        discard.WaitAsync(Deadline.Default).GetAwaiter().GetResult();
        Assert.False(bench.Block.Received.Test(0));
        using PresentLease nothing = bench.Block.LeasePresent(0, 0);
        Assert.True(nothing.Span.IsEmpty);
    });

    [Fact(Timeout = Limit)]
    public async Task APoisonedPageRefusesTheLeaseAndHoldsNothing() => await Task.Run(() =>
    {
        Requires.Userfaultfd(UffdFeatures.Poison);
        using PlacerBench bench = new(RawMapping.Anonymous(2), features: UffdFeatures.Poison);
        Assert.True(bench.Arena.Uffd.Poison(bench.Arena.Page(0), 4096, UffdPlaceFlags.None).IsDone);
        _ = bench.Block.MarkReceived(0, 1);
        GuestMemoryException refused = Assert.Throws<GuestMemoryException>(() => bench.Block.LeasePresent(0, 4096).Dispose());
        Assert.Contains("could not be made present", refused.Message, StringComparison.Ordinal);
        bench.Block.Discard(new PageRange(0, 4096));
        Assert.True(bench.Block.Claims.TryAcquireExclusive(0));
    });

    [Fact(Timeout = Limit)]
    public async Task ARangeOverManyStretchesIsHeldThroughout() => await Task.Run(() =>
    {
        using PlacerBench bench = new(RawMapping.Anonymous(2048));
        _ = bench.Placer.PlaceZero(bench.Block, 0, 2048 * 4096);
        using (PresentLease lease = bench.Block.LeasePresent((2 << 20) - 1, (4 << 20) + 2))
        {
            Assert.Equal(-1, lease.Span.IndexOfAnyExcept((byte)0));
            foreach (long stretch in (long[])[0, 1, 2, 3])
            {
                Assert.False(bench.Block.Claims.TryAcquireExclusive(stretch));
            }
        }

        bench.Block.Claims.AcquireExclusive(0, 4);
        bench.Block.Claims.ReleaseExclusive(0, 4);
    });

    [Fact(Timeout = Limit)]
    public async Task DiscardChecksItsRangesBeforeItDiscardsAny() => await Task.Run(() =>
    {
        using PlacerBench bench = new(RawMapping.Anonymous(8));
        _ = bench.Place(0, 8);
        foreach (PageRange bad in (PageRange[])[new(100, 4096), new(0, 100), new(0, 0), new(0, -4096), new(-4096, 4096), new(8 * 4096, 4096), new(4096, 8 * 4096)])
        {
            Assert.Throws<RamBlockException>(() => bench.Block.Discard(new PageRange(0, 4096), bad));
        }

        Assert.Equal(0, bench.Block.MissingPages);
        bench.Block.Discard(new PageRange(0, 4096), new PageRange(2 * 4096, 4096));
        Assert.Equal(2, bench.Block.MissingPages);
        Assert.False(bench.IsPresent(0));
        Assert.True(bench.IsPresent(1));
    });

    [Fact(Timeout = Limit)]
    public async Task MemoryThatIsDisposedStaysMappedUntilTheLeaseEnds() => await Task.Run(() =>
    {
        GuestMemory memory = GuestMemory.Allocate(new GuestMemoryOptions { Length = 16 * 4096 });
        using RamBlockRegistry registry = new();
        RamBlock block = registry.Add(new RamBlockSpec { Name = "ram", Memory = memory });
        block.Write(4096, "still here"u8);
        _ = block.MarkReceived(0, 16);
        using (PresentLease lease = block.LeasePresent(4096, 10))
        {
            memory.Dispose();

            // Before the look: without the lease's hold it would end the process.
            Assert.Contains(ProcessMaps.Overlapping(block.Range, withFlags: false), m => m.Range.Intersect(block.Range) == block.Range);
            Assert.True(lease.Span.SequenceEqual("still here"u8));
        }

        Assert.Throws<ObjectDisposedException>(() => block.LeasePresent(4096, 10).Dispose());
        Assert.Throws<ObjectDisposedException>(() => block.Read(0, new byte[10]));
        Assert.Throws<ObjectDisposedException>(() => block.Write(0, new byte[10]));
        Assert.Throws<ObjectDisposedException>(() => block.Discard(new PageRange(0, 4096)));
        Assert.Throws<ObjectDisposedException>(() => block.ComputeSha256());
        Assert.True(block.Claims.TryAcquireExclusive(0));
    });
}
