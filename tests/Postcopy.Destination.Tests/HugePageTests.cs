using Postcopy.Uffd.Qemu.Tests.Live;

namespace Postcopy.Destination.Tests;

public sealed class HugePageTests
{
    private const int Limit = 180_000;

    [Fact(Timeout = Limit)]
    public async Task AGuestOfHugePagesArrivesRightUnderTouches()
    {
        using HugePages pool = new(24);
        (int exit, _, string error) = await SampleProcess.RunAsync("--memory", "48M", "--memory-kind", "hugetlb", "--page-size", "2m", "--bandwidth", "40M");
        Assert.True(exit == 0, error);
        Assert.Contains("content: all 12320 pages are right", error, StringComparison.Ordinal);
        Assert.Contains("each saw the right content", error, StringComparison.Ordinal);
    }

    [Fact(Timeout = Limit)]
    public async Task AnEmptyPoolIsNamedWithWhatIsNeededAndTheRemedy()
    {
        // More than any pool has: 512 GiB.
        (int exit, _, string error) = await SampleProcess.RunAsync("--memory", "512G", "--memory-kind", "hugetlb", "--timeout", "60");
        Assert.Equal(1, exit);
        Assert.Contains("this host has not enough for the guest", error, StringComparison.Ordinal);
        Assert.Matches(@"FAILED +huge-pages: 262144 pages of 2 MiB needed, \d+ available .* -> echo \d+ > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", error);
    }
}
