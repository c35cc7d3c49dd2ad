using Postcopy.Uffd.Interop;
using Postcopy.Uffd.Tests.Destination;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Placement;

/// <summary>MOVE takes node and lock state of staging along (hazard H42).</summary>
public sealed class MemoryPolicyTests
{
    private const int Limit = 60_000;

    [Fact(Timeout = Limit)]
    public async Task StagingIsBoundToTheNodesOfTheGuestsMemory() => await Task.Run(() =>
    {
        using StretchBench bench = new(1);
        BindToFirstNode(bench);
        using HugeStaging staging = new();
        Assert.Equal(Numaif.MPOL_DEFAULT, ModeOf(staging.Address));
        Assert.True(staging.TryBack());
        staging.Soil();

        staging.FollowPolicyOf(bench.Block);

        Assert.Equal(Numaif.MPOL_BIND, ModeOf(staging.Address));

        // Its page may be on another node: it is taken anew.
        Assert.True(staging.TryBack());
        Assert.True(staging.IsClear);

        using StretchBench other = new(1);
        staging.FollowPolicyOf(other.Block);
        Assert.Equal(Numaif.MPOL_DEFAULT, ModeOf(staging.Address));
    });

    [Fact(Timeout = Limit)]
    public async Task StretchesAreStagedUnderTheGuestsPolicy() => await Task.Run(() =>
    {
        using StretchBench bench = new(2);
        BindToFirstNode(bench);
        using StagingWindow window = bench.Placer.CreateWindow();
        int pages = 1;

        nuint room = window.RoomFor(bench.Block, 0, ref pages);

        Assert.Equal(Numaif.MPOL_BIND, ModeOf(room));
    });

    [Fact(Timeout = Limit)]
    public async Task LockedGuestMemoryIsCopiedInto() => await Task.Run(() =>
    {
        using StretchBench bench = new(1);
        nuint source = bench.Source(0, 512);

        // On fault, or mlock itself would wait for the pages (hazard H21).
        Assert.SkipUnless(mlock2(bench.Arena.Memory.Address, (nuint)StretchBench.Bytes, 1) == 0, "2 MiB cannot be locked: raise RLIMIT_MEMLOCK.");

        Assert.True(bench.Placer.PlaceStretch(bench.Block, 0, source).IsReceived);

        Assert.Equal((0L, 1L), (bench.Placer.Statistics.MovedBytes, bench.Placer.Statistics.StretchesRefused));
        bench.AssertContent(0, 512);
        Pages.Free(source);
    });

    [System.Runtime.InteropServices.DllImport("libc", SetLastError = true)]
    private static extern int mlock2(nuint address, nuint length, uint flags);

    private static unsafe void BindToFirstNode(StretchBench bench)
    {
        ulong* nodes = stackalloc ulong[Numaif.MaskWords];
        nodes[0] = 1;
        Assert.SkipUnless(Numaif.mbind(bench.Arena.Memory.Address, (nuint)bench.Block.UsedLength, Numaif.MPOL_BIND, nodes) == 0,
            "mbind is refused here: a kernel with CONFIG_NUMA and no seccomp filter against it is needed.");
    }

    private static unsafe int ModeOf(nuint address)
    {
        int mode = -1;
        ulong* nodes = stackalloc ulong[Numaif.MaskWords];
        Assert.Equal(0, Numaif.get_mempolicy(&mode, nodes, address));
        return mode;
    }
}
