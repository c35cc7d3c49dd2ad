namespace Postcopy.Uffd.Tests.Faults;

/// <summary>Threads that fault on a page that some channel has received and not placed yet.</summary>
public sealed class StagedFaultTests
{
    private static readonly TimeSpan s_soon = TimeSpan.FromMilliseconds(20);

    [Fact]
    public void AStagedPageIsPlacedAndTheSourceIsNotAsked()
    {
        using ReaderBench bench = new();
        using StagingWindow window = bench.Placer.CreateWindow(stretches: false);
        window.Add(bench.Block, 5 * bench.Block.PageSize.Bytes, 0);
        Simulation.FakeVcpu vcpu = bench.Touch(5);

        bench.Reader.Turn();

        Assert.True(vcpu.IsRunnable);
        Assert.Empty(bench.Requests);
        Assert.True(bench.Block.Received.Test(5));
    }

    [Fact]
    public void AZeroPageBehindThousandsOthersIsPlacedAndTheSourceIsNotAsked()
    {
        // No two are neighbours: each is a run of its own.
        using ReaderBench bench = new(pages: 8192);
        using StagingWindow window = bench.Placer.CreateWindow(stretches: false, capacity: 4096);
        for (int page = 0; page < 8192; page += 2)
        {
            window.Add(bench.Block, page * bench.Block.PageSize.Bytes, 0);
        }

        Assert.Equal(0, bench.Block.Received.CountSet());
        Simulation.FakeVcpu vcpu = bench.Touch(8190);

        bench.Reader.Turn();

        Assert.True(vcpu.IsRunnable);
        Assert.Empty(bench.Requests);
        Assert.Equal(1, bench.Block.Received.CountSet());
        Assert.True(window.Flush().IsReceived);
        Assert.Equal((4096, 0), (bench.Block.Received.CountSet(), bench.Placer.Statistics.AlreadyReceivedPages));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void AnAwaitedPageIsPlacedAsItComesAndNotWhenTheRestIsPlaced(bool zero)
    {
        using ReaderBench bench = new();
        using StagingWindow window = bench.Placer.CreateWindow(stretches: false);
        Simulation.FakeVcpu vcpu = bench.Touch(5);
        bench.Reader.Turn();
        Assert.Single(bench.Requests);

        window.Add(bench.Block, 4 * bench.Block.PageSize.Bytes, 0, 1);
        window.Add(bench.Block, 5 * bench.Block.PageSize.Bytes, zero ? 0 : ZeroSource.Address);

        Assert.True(vcpu.IsRunnable);
        Assert.Equal((false, true), (bench.Block.Received.Test(4), bench.Block.Received.Test(5)));
    }

    [Fact]
    public void APageThatWasAskedForAheadAndIsStagedIsPlacedForItsFirstThread()
    {
        using ReaderBench bench = new();
        using StagingWindow window = bench.Placer.CreateWindow(stretches: false);
        window.Add(bench.Block, 5 * bench.Block.PageSize.Bytes, 0);
        _ = bench.Block.Requested.TestAndSet(5);
        Simulation.FakeVcpu vcpu = bench.Touch(5);

        bench.Reader.Turn();

        Assert.True(vcpu.IsRunnable);
        Assert.Empty(bench.Requests);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void AStagedPageThatTheKernelRefusesThisMomentIsLeftToItsChannelAndTheSourceIsNotAsked(bool zero)
    {
        using ReaderBench bench = new();
        using StagingWindow window = bench.Placer.CreateWindow(stretches: false);
        window.Add(bench.Block, 5 * bench.Block.PageSize.Bytes, zero ? 0 : ZeroSource.Address);
        Simulation.FakeVcpu vcpu = bench.Touch(5);
        bench.Kernel.OutOfMemoryCalls = 1;

        bench.Reader.Turn();
        Assert.Equal((true, 1L), (vcpu.Waits, bench.Kernel.Calls));

        // Its channel may be waiting for the rest of a record: the reader goes on trying.
        bench.TurnAfter(s_soon);
        Assert.True(vcpu.IsRunnable);
        Assert.True(window.Flush().IsReceived);
        bench.TurnAfter(s_soon);
        Assert.Empty(bench.Requests);
        Assert.Equal((2L, -1L), (bench.Kernel.Calls, bench.Reader.Patience));
    }

    [Fact]
    public void AStagedPageThatIsThrownAwayBeforeItCouldBePlacedIsAskedForAfterAll()
    {
        // Placed, thrown away by us and touched, while the channel's run of zeros is still in sight; the discard holds the claim.
        using ReaderBench bench = new();
        using StagingWindow window = bench.Placer.CreateWindow(stretches: false);
        window.Add(bench.Block, 5 * bench.Block.PageSize.Bytes, 0);
        bench.Block.Claims.AcquireExclusive(0, 1);
        _ = bench.Touch(5);
        bench.Reader.Turn();
        bench.Block.Claims.ReleaseExclusive(0, 1);
        Assert.True(window.Flush().IsReceived);
        bench.Memory.Zap(5);
        _ = bench.Block.Received.TestAndClear(5);
        Assert.Empty(bench.Requests);

        bench.TurnAfter(s_soon);
        bench.TurnAfter(s_soon);

        Assert.Equal([5], bench.RequestedPages());
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void AGuestThatTheFaultThreadCompletedIsNotReportedAsFailedByTheChannel(bool disposed)
    {
        // The last page is a zero page of a window. Right before the channel's own ZEROPAGE a thread touches it: the fault thread
        // places it, the guest is complete, and its memory is no longer registered when the channel's call comes.
        using ReaderBench bench = new(pages: 8);
        using StagingWindow window = bench.Placer.CreateWindow(stretches: false);
        _ = bench.Block.MarkReceived(0, 7);
        window.Add(bench.Block, 7 * bench.Block.PageSize.Bytes, 0);
        bench.Kernel.Interleave = () =>
        {
            bench.Kernel.Interleave = null;
            Assert.True(bench.Placer.TryPlaceStaged(bench.Block, 7));
            bench.Kernel.NotRegistered = true;
            if (disposed)
            {
                throw new ObjectDisposedException(nameof(UffdHandle));
            }
        };

        Assert.True(window.Flush().IsReceived);
        Assert.Equal(0, bench.Block.MissingPages);
    }

    [Fact]
    public void AZeroPageThatIsMissingIsNotTakenForReceivedWhenItsMemoryIsGone()
    {
        using ReaderBench bench = new(pages: 8);
        using StagingWindow window = bench.Placer.CreateWindow(stretches: false);
        window.Add(bench.Block, 0, 0, 8);
        bench.Kernel.NotRegistered = true;

        Assert.Equal(PlaceOutcome.NotRegistered, window.Flush().Outcome);
        Assert.Equal(8, bench.Block.MissingPages);
    }

    [Fact]
    public void APageInHandOfTheChannelIsNotPlacedByTheFaultThreadAsWell()
    {
        // While the channel is in the kernel with it, a fault comes.
        using ReaderBench bench = new();
        using StagingWindow window = bench.Placer.CreateWindow(stretches: false);
        window.Add(bench.Block, 5 * bench.Block.PageSize.Bytes, ZeroSource.Address);
        bool found = false;
        bench.Kernel.Interleave = () =>
        {
            bench.Kernel.Interleave = null;
            found = bench.Placer.TryPlaceStaged(bench.Block, 5);
            Assert.Equal(0, bench.Kernel.Calls);
        };

        Assert.True(window.Flush().IsReceived);

        Assert.Equal((true, 1L, 0L), (found, bench.Kernel.Calls, bench.Placer.Statistics.AlreadyReceivedPages));
    }
}
