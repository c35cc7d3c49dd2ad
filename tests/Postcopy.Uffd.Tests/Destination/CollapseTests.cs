using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Destination;

public sealed class CollapseTests
{
    private const int Limit = 60_000;
    private const long Bytes = 2 << 20;

    [Fact(Timeout = Limit)]
    public async Task ACompleteGuestGetsHugePagesBackAndLearnsWhatItCost()
    {
        Requires.HugePageMoves();
        using GuestMemory memory = GuestMemory.Allocate(new GuestMemoryOptions { Length = 4 * Bytes });
        await using PostcopyDestination destination = new(new PostcopyOptions { Placer = new PlacerOptions { Stretches = StretchPlacement.Off } });
        RamBlock block = destination.Blocks.Add(new RamBlockSpec { Name = "ram", Memory = memory });
        destination.Advise();
        destination.Listen(new PageRequestQueue());
        await Assert.ThrowsAsync<PostcopyStateException>(() => destination.CollapseAsync());
        nuint source = Pages.Make(3, Bytes);

        // Full, full, mostly zero, and a whole huge page of zeros that nobody needs.
        foreach (long at in new[] { 0, Bytes })
        {
            Assert.True(destination.Placer.Place(block, at, source, Bytes).IsReceived);
        }

        Assert.True(destination.Placer.Place(block, 2 * Bytes, source, 10 * 4096).IsReceived);
        Assert.True(destination.Placer.PlaceZero(block, (2 * Bytes) + (10 * 4096), (2 * Bytes) - (10 * 4096)).IsReceived);
        Pages.Free(source);
        byte[] content = Content();
        _ = await destination.CompleteAsync();

        CollapseReport report = await destination.CollapseAsync(new CollapseOptions { Share = 1 });

        Assert.SkipUnless(report.Refused == 0, $"This host has no huge pages to give now (errno {report.LastErrno}); free some memory.");
        Assert.Equal((0L, 2L, 2L), (report.Huge, report.Collapsed, report.Sparse));
        Assert.True(report.Busy >= report.Longest && report.Longest > TimeSpan.Zero && report.Duration >= report.Busy, $"{report}");
        Assert.Equal((true, true, false), (IsHuge(0), IsHuge(1), IsHuge(2)));
        Assert.Equal(content, Content());

        CollapseReport again = await destination.CollapseAsync(new CollapseOptions { MostZeroPages = 502 });
        Assert.Equal((2L, 1L, 1L), (again.Huge, again.Collapsed, again.Sparse));

        bool IsHuge(int stretch) => PageTables.IsHuge(memory.Address + (nuint)(stretch * Bytes), (nuint)Bytes);

        byte[] Content()
        {
            byte[] bytes = new byte[4 * Bytes];
            block.Read(0, bytes.AsSpan(0, (int)(2 * Bytes) + (20 * 4096)));
            return bytes;
        }
    }

    [Fact(Timeout = Limit)]
    public async Task CollapsingKeepsToItsShareOfTheTime()
    {
        Requires.HugePageMoves();
        using GuestMemory memory = GuestMemory.Allocate(new GuestMemoryOptions { Length = 8 * Bytes });
        memory.MarkComplete();
        _ = Postcopy.Uffd.Interop.Libc.madvise(memory.Address, (nuint)memory.Length, Postcopy.Uffd.Interop.Libc.MADV_NOHUGEPAGE);
        GuestAccess.Write(memory.Address, new byte[8 * Bytes]);
        _ = Postcopy.Uffd.Interop.Libc.madvise(memory.Address, (nuint)memory.Length, Postcopy.Uffd.Interop.Libc.MADV_HUGEPAGE);

        CollapseReport report = await new HugePageCollapse(new CollapseOptions { Share = 0.25 }).RunAsync([new AddressRange(memory.Address, (nuint)memory.Length)], TestContext.Current.CancellationToken);

        // The kernel's own khugepaged may have been at one of them before.
        Assert.Equal((8L, 0L), (report.Collapsed + report.Refused + report.Huge, report.Sparse));
        Assert.True(report.Duration >= 3.5 * report.Busy, $"{report.Busy} of {report.Duration} were spent collapsing.");
    }

    [Theory]
    [InlineData(0, 448)]
    [InlineData(1.1, 448)]
    [InlineData(double.NaN, 448)]
    [InlineData(0.5, -1)]
    [InlineData(0.5, 513)]
    public void OptionsOutOfRangeAreRefused(double share, int zeros) =>
        Assert.Throws<ArgumentOutOfRangeException>(() => new HugePageCollapse(new CollapseOptions { Share = share, MostZeroPages = zeros }));
}
