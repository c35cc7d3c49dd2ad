namespace Postcopy.Uffd.Tests.Faults;

/// <summary>Threads that fault on a page that some channel has received and not placed yet.</summary>
public sealed class StagedFaultTests
{
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
    public void APageThatWasAskedForAheadAndIsStagedIsPlacedForItsFirstThread()
    {
        using ReaderBench bench = new();
        using StagingWindow window = bench.Placer.CreateWindow(stretches: false);
        _ = bench.Block.Requested.TestAndSet(5);
        window.Add(bench.Block, 5 * bench.Block.PageSize.Bytes, 0);
        Simulation.FakeVcpu vcpu = bench.Touch(5);

        bench.Reader.Turn();

        Assert.True(vcpu.IsRunnable);
        Assert.Empty(bench.Requests);
    }
}
