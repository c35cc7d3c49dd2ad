using Postcopy.Uffd.Interop;
using Postcopy.Uffd.Tests.Destination;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Placement;

/// <summary>A second mapping of the memfd under a second descriptor, as a vhost-user backend has one.</summary>
public sealed class MirrorTests
{
    private const int Limit = 60_000;

    [Theory(Timeout = Limit)]
    [InlineData(UffdModes.Missing)]
    [InlineData(UffdModes.Missing | UffdModes.Minor)]
    public async Task APageThatIsPlacedOnceWakesTheWaiterInTheMirror(UffdModes modes) => await Task.Run(() =>
    {
        using PlacerBench bench = new(RawMapping.Memfd(8), UffdModes.Missing | UffdModes.Minor);
        using UffdArena mirror = new(bench.Arena.Memory.Alias(), modes);
        bench.Block.AttachMirror(mirror.Uffd, mirror.Memory.Address, modes);
        FaultingThread here = bench.Arena.Read(3);
        FaultingThread there = mirror.Read(3);
        _ = bench.Arena.NextMessage();
        _ = mirror.NextMessage();

        Assert.Equal(PlaceOutcome.Placed, bench.Place(2, 4).Outcome);

        Assert.Equal(Pages.Expected(3, 4096)[0], (byte)here.Result);
        Assert.Equal(Pages.Expected(3, 4096)[0], (byte)there.Result);
        Assert.Equal(Pages.Expected(5, 4096)[1], (byte)mirror.Read(5, offset: 1).Result);
    });

    [Fact(Timeout = Limit)]
    public async Task PagesThatTheMirrorHasAlreadyDoNotKeepTheOthersFromIt() => await Task.Run(() =>
    {
        const UffdModes modes = UffdModes.Missing | UffdModes.Minor;
        using PlacerBench bench = new(RawMapping.Memfd(8), modes);
        using UffdArena mirror = new(bench.Arena.Memory.Alias(), modes);
        Assert.True(mirror.Uffd.Zeropage(mirror.Page(2), 4096, UffdPlaceFlags.None).IsDone);
        bench.Block.AttachMirror(mirror.Uffd, mirror.Memory.Address, modes);
        FaultingThread waiter = mirror.Read(4);
        _ = mirror.NextMessage();

        Assert.True(bench.Place(0, 8).IsReceived);

        // The run of CONTINUE ends at page 2; the waiter is woken and faults again, now for a page of the cache.
        if (!waiter.Wait(TimeSpan.FromMilliseconds(200)))
        {
            Assert.Equal(UffdPagefaultFlags.Minor, mirror.NextMessage().Flags & UffdPagefaultFlags.Minor);
            Assert.True(mirror.Uffd.Continue(mirror.Page(4), 4096, UffdPlaceFlags.None).IsDone);
        }

        Assert.Equal(Pages.Expected(4, 4096)[0], (byte)waiter.Result);
    });

    [Fact(Timeout = Limit)]
    public async Task PoisonReachesTheMirrorToo() => await Task.Run(() =>
    {
        Requires.Userfaultfd(UffdFeatures.Poison);
        using PlacerBench bench = new(RawMapping.Memfd(8), UffdModes.Missing | UffdModes.Minor, UffdFeatures.Poison);
        using UffdArena mirror = new(bench.Arena.Memory.Alias(), UffdModes.Missing, UffdFeatures.Poison);
        bench.Block.AttachMirror(mirror.Uffd, mirror.Memory.Address, UffdModes.Missing);
        Assert.True(bench.Place(1).IsReceived);
        Assert.Equal(7, bench.Placer.PoisonMissing(bench.Block).PagesPlaced);
        Assert.Equal(-1, Libc.madvise(mirror.Page(2), 4096, Libc.MADV_POPULATE_READ));
        Assert.Equal(Pages.Expected(1, 4096)[0], (byte)mirror.Read(1).Result);
    });

    [Fact(Timeout = Limit)]
    public async Task PrivateMemoryHasNoMirrors() => await Task.Run(() =>
    {
        using PlacerBench bench = new(RawMapping.Anonymous(8));
        RamBlockException refused = Assert.Throws<RamBlockException>(() => bench.Block.AttachMirror(bench.Arena.Uffd, 0x1000, UffdModes.Missing));
        Assert.Equal("RAM block 'ram' is private memory; only shared memory can be mapped elsewhere too.", refused.Message);
    });
}
