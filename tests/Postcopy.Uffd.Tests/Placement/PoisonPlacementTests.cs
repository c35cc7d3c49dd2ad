using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Placement;

public sealed class PoisonPlacementTests
{
    [Fact(Timeout = 60_000)]
    public async Task PoisoningGoesOnBehindAPageThatIsThereAndNotMarked() => await Task.Run(() =>
    {
        Requires.Userfaultfd(UffdFeatures.Poison);
        using PlacerBench bench = new(RawMapping.Anonymous(4), features: UffdFeatures.Poison);

        // Placed by somebody else, between the kernel's answer and the bit.
        Assert.True(bench.Arena.Uffd.Zeropage(bench.Arena.Page(1), 4096, UffdPlaceFlags.None).IsDone);

        PlaceResult result = bench.Placer.PoisonMissing(bench.Block);

        Assert.True(result.IsReceived, result.ToString());
        Assert.Equal(3, result.PagesPlaced);
    });
}
