using Postcopy.Uffd.Tests.Destination;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Placement;

/// <summary>What makes moving a stretch safe, each condition alone: with any of them taken out a page is lost or wrong.</summary>
public sealed class StretchSafetyTests
{
    private const int Limit = 60_000;
    private const int PerStretch = 512;

    [Fact(Timeout = Limit)]
    public async Task AStretchThatAnotherIsPlacingIntoIsNotDiscarded() => await Task.Run(() =>
    {
        using StretchBench bench = new(1, new PlacerOptions { HugeZeroPages = true });
        using StagingWindow window = bench.Placer.CreateWindow();
        nuint source = bench.Source(0, PerStretch);

        // Another channel between its ioctl and the received bit.
        bench.Block.Claims.AcquireShared(0);
        Assert.True(bench.Arena.Uffd.Copy(bench.Arena.Page(7), source + (7 * 4096), 4096).IsDone);
        window.Add(bench.Block, 0, source, PerStretch);
        Assert.True(window.Flush().IsReceived);
        Assert.True(bench.IsPresent(7));
        Assert.Equal((0L, 1L), (bench.Placer.Statistics.MovedBytes, bench.Placer.Statistics.StretchesDisturbed));

        bench.Block.Claims.ReleaseShared(0);
        bench.AssertContent(0, PerStretch);
        Pages.Free(source);
    });

    [Fact(Timeout = Limit)]
    public async Task ZerosAreNotMovedWhileAnotherIsPlacing() => await Task.Run(() =>
    {
        using StretchBench bench = new(1, new PlacerOptions { HugeZeroPages = true });
        using StagingWindow window = bench.Placer.CreateWindow();
        nuint source = bench.Source(7, 1);
        bench.Block.Claims.AcquireShared(0);
        Assert.True(bench.Arena.Uffd.Copy(bench.Arena.Page(7), source, 4096).IsDone);

        window.Add(bench.Block, 0, 0, PerStretch);

        Assert.True(window.Flush().IsReceived);
        bench.Block.Claims.ReleaseShared(0);
        bench.AssertPage(7, 7);
        Assert.Equal(0, bench.Placer.Statistics.ZeroStretchesMoved);
        Pages.Free(source);
    });

    [Theory(Timeout = Limit)]
    [InlineData(false)]
    [InlineData(true)]
    public async Task NothingIsDiscardedWhileOurOwnReaderWouldHaveToReadOfIt(bool zeros) => await Task.Run(() =>
    {
        // Nobody reads events here: a madvise of ours on registered memory would not come back.
        using StretchBench bench = new(2, new PlacerOptions { HugeZeroPages = true }, UffdFeatures.EventRemove);
        bench.Placer.Gate = new LayoutGate();
        nuint source = bench.Source(0, PerStretch);
        using StagingWindow window = bench.Placer.CreateWindow();

        window.Add(bench.Block, 0, zeros ? 0 : source, PerStretch);

        Assert.True(window.Flush().IsReceived);
        Assert.Equal(zeros && !StretchBench.HasHugeZeroPage ? 0 : 1, bench.Placer.Statistics.StretchesMoved + bench.Placer.Statistics.ZeroStretchesMoved);
        bench.AssertContent(0, PerStretch, zero: _ => zeros);
        Pages.Free(source);
    });

    [Fact(Timeout = Limit)]
    public async Task ZerosAreCleanInStagingThatHeldOtherPages() => await Task.Run(() =>
    {
        using StretchBench bench = new(2);
        using StagingWindow window = bench.Placer.CreateWindow();

        // The first stretch falls back to copying and leaves its pages behind.
        bench.Stream(window, 0, 300);
        Assert.True(window.Flush().IsReceived);
        bench.Stream(window, PerStretch, PerStretch, zero: page => page % 2 == 0);

        Assert.True(window.Flush().IsReceived);
        Assert.Equal(1, bench.Placer.Statistics.StretchesMoved);
        bench.AssertContent(PerStretch, 2 * PerStretch, zero: page => page % 2 == 0);
    });
}
