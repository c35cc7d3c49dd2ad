using Postcopy.Uffd.Interop;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Memory;

/// <summary>What a migration needs against what the host has, on made-up hosts and on this one.</summary>
public sealed class MemoryPlanTests(ITestOutputHelper output)
{
    private const long GiB = 1L << 30;
    private const long MiB = 1L << 20;

    [Fact]
    public void AHostWithEnoughOfEverythingIsSufficient()
    {
        using HostFixture host = Host();

        MemoryPlanReport report = MemoryPlan.CheckAgainst([new(GuestMemoryKind.Anonymous, GiB), new(GuestMemoryKind.Memfd, GiB) { Locked = true }], host.Files);

        output.WriteLine(report.ToString());
        Assert.True(report.IsSufficient, report.ToString());
        Assert.Equal("memory-available cgroup-memory mappings locked-memory", Names(report));
        Assert.StartsWith("The host has what the migration needs.", report.ToString(), StringComparison.Ordinal);
    }

    [Fact]
    public void TooLittleMemoryIsRefusedWithTheValueAndTheLimit()
    {
        using HostFixture host = Host();

        HostCheck check = Failed(host, new MemoryPlanBlock(GuestMemoryKind.Anonymous, 20 * GiB));

        // 20 GiB, page tables of 1/512 and bitmaps of 1/16384 of it.
        Assert.Equal("memory-available", check.Name);
        Assert.Equal("20.04 GiB needed, 8 GiB available; beyond it the kernel kills a process, no error comes", check.Detail);
    }

    [Fact]
    public void MemoryThatOnlySwapCouldGiveIsAWarning()
    {
        using HostFixture host = Host().With("/proc/meminfo", "MemAvailable:  1048576 kB\nSwapFree:  8388608 kB");

        MemoryPlanReport report = MemoryPlan.CheckAgainst([new(GuestMemoryKind.Anonymous, 2 * GiB)], host.Files);

        Assert.True(report.IsSufficient);
        Assert.Contains("swapped out", report.Checks[0].Detail, StringComparison.Ordinal);
        Assert.Equal(HostCheckStatus.Warning, report.Checks[0].Status);
    }

    [Fact]
    public void TheTightestGroupOfTheHierarchyCounts()
    {
        using HostFixture host = Host()
            .With("/proc/self/cgroup", "0::/machine/vm1")
            .With("/sys/fs/cgroup/machine/vm1/memory.max", "max")
            .With("/sys/fs/cgroup/machine/vm1/memory.current", "1048576")
            .With("/sys/fs/cgroup/machine/memory.max", $"{2 * GiB}")
            .With("/sys/fs/cgroup/machine/memory.current", $"{GiB + (256 * MiB)}")
            .With("/sys/fs/cgroup/machine/memory.stat", $"anon 5\ninactive_file {128 * MiB}\nactive_file {128 * MiB}\n");

        HostCheck check = Failed(host, new MemoryPlanBlock(GuestMemoryKind.Anonymous, 2 * GiB));
        MemoryPlanReport fits = MemoryPlan.CheckAgainst([new(GuestMemoryKind.Anonymous, 1000 * MiB)], host.Files);

        Assert.Equal("cgroup-memory", check.Name);
        // The page cache of 256 MiB can be taken back, so 1 GiB is left.
        Assert.Contains("1 GiB left of 2 GiB in /sys/fs/cgroup/machine;", check.Detail, StringComparison.Ordinal);
        Assert.Contains("kills the process", check.Detail, StringComparison.Ordinal);
        Assert.Contains("> /sys/fs/cgroup/machine/memory.max", check.Remedy, StringComparison.Ordinal);
        Assert.True(fits.IsSufficient, fits.ToString());
    }

    [Fact]
    public void AGroupOfVersion1IsFoundAlsoThroughAContainersMount()
    {
        using HostFixture host = Host()
            .With("/proc/self/cgroup", "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/")
            .With("/proc/self/mountinfo", "36 25 0:31 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n37 25 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw")
            .With("/sys/fs/cgroup/memory/memory.limit_in_bytes", $"{GiB}")
            .With("/sys/fs/cgroup/memory/memory.usage_in_bytes", $"{512 * MiB}");

        HostCheck check = Failed(host, new MemoryPlanBlock(GuestMemoryKind.Memfd, GiB));

        Assert.Contains("512 MiB left of 1 GiB in /sys/fs/cgroup/memory;", check.Detail, StringComparison.Ordinal);
    }

    [Fact]
    public void AVersion1GroupWithoutALimitIsNoLimit()
    {
        using HostFixture host = Host()
            .With("/proc/self/cgroup", "4:memory:/a")
            .With("/proc/self/mountinfo", "36 25 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory")
            .With("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "9223372036854771712")
            .With("/sys/fs/cgroup/memory/a/memory.usage_in_bytes", "4096");

        Assert.Equal("no limit", Check(host, "cgroup-memory", new MemoryPlanBlock(GuestMemoryKind.Anonymous, GiB)).Detail);
    }

    [Fact]
    public void MemoryHighIsAWarning()
    {
        using HostFixture host = Host()
            .With("/sys/fs/cgroup/vm/memory.max", "max")
            .With("/sys/fs/cgroup/vm/memory.current", "0")
            .With("/sys/fs/cgroup/vm/memory.high", $"{GiB / 2}");

        HostCheck check = Check(host, "cgroup-memory", new MemoryPlanBlock(GuestMemoryKind.Anonymous, GiB));

        Assert.Equal(HostCheckStatus.Warning, check.Status);
        Assert.Contains("memory.high", check.Detail, StringComparison.Ordinal);
    }

    [Fact]
    public void HugePagesAreComparedWithTheirPoolAndTheirGroup()
    {
        using HostFixture host = Host()
            .With("/sys/fs/cgroup/vm/hugetlb.2MB.max", $"{4 * MiB}")
            .With("/sys/fs/cgroup/vm/hugetlb.2MB.current", $"{2 * MiB}");
        Pool(host, "2048", total: 10, free: 6, reserved: 2);

        MemoryPlanReport report = MemoryPlan.CheckAgainst([new(GuestMemoryKind.Hugetlb, 10 * MiB), new(GuestMemoryKind.Hugetlb, GiB) { PageSize = PageSize.OneGiB }], host.Files);

        Assert.Equal(
            [
                "FAILED   cgroup-hugetlb: 10 MiB of 2 MiB pages needed, 2 MiB left of 4 MiB in /sys/fs/cgroup/vm -> echo 12582912 > /sys/fs/cgroup/vm/hugetlb.2MB.max",
                "FAILED   huge-pages: 5 pages of 2 MiB needed, 4 available (10 in the pool, 6 free, 2 reserved) -> echo 11 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
                "FAILED   huge-pages: 1 pages of 1 GiB needed, and this kernel has no such pool -> use pages of a size in /sys/kernel/mm/hugepages",
            ],
            report.Checks.Where(c => c.Status == HostCheckStatus.Failed).Select(c => c.ToString()));
        // Huge pages are not taken from the available memory: they are reserved already.
        Assert.Equal(HostCheckStatus.Ok, report.Checks[0].Status);
    }

    [Fact]
    public void HugePagesCountAsMemoryOfTheGroupWhenItIsMountedSo()
    {
        using HostFixture host = Host()
            .With("/proc/self/mountinfo", "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,memory_hugetlb_accounting")
            .With("/sys/fs/cgroup/vm/memory.max", $"{MiB}")
            .With("/sys/fs/cgroup/vm/memory.current", "0");
        Pool(host, "2048", total: 10, free: 10, reserved: 0);

        Assert.Equal("cgroup-memory", Failed(host, new MemoryPlanBlock(GuestMemoryKind.Hugetlb, 2 * MiB)).Name);
    }

    [Fact]
    public void TooManyMappingsAreRefused()
    {
        using HostFixture host = Host().With("/proc/sys/vm/max_map_count", "1000").With("/proc/self/maps", string.Join('\n', Enumerable.Repeat("x", 900)));

        HostCheck check = Failed(host, [.. Enumerable.Repeat(new MemoryPlanBlock(GuestMemoryKind.Anonymous, MiB), 20)]);

        Assert.Equal("mappings", check.Name);
        Assert.Equal("900 present and 144 needed, limit 1000 (vm.max_map_count)", check.Detail);
        Assert.Equal("sysctl vm.max_map_count=2088", check.Remedy);
    }

    [Fact]
    public void LockingMoreThanTheLimitIsRefusedUnlessPrivileged()
    {
        using HostFixture host = Host()
            .With("/proc/self/limits", "Limit                     Soft Limit           Hard Limit           Units\nMax locked memory         67108864             67108864             bytes")
            .With("/proc/self/status", "VmLck:\t   32768 kB\nCapEff:\t0000000000000000");
        MemoryPlanBlock block = new(GuestMemoryKind.Anonymous, 64 * MiB) { Locked = true };

        HostCheck check = Failed(host, block);
        _ = host.With("/proc/self/status", "VmLck:\t   32768 kB\nCapEff:\t0000000000004000");
        HostCheck privileged = Check(host, "locked-memory", block);

        Assert.Equal("64 MiB will be locked, 32 MiB are, limit 64 MiB (RLIMIT_MEMLOCK)", check.Detail);
        Assert.Contains("ulimit -l 98304", check.Remedy, StringComparison.Ordinal);
        Assert.Equal(HostCheckStatus.Ok, privileged.Status);
    }

    [Fact]
    public void StrictOvercommitIsCompared()
    {
        using HostFixture host = Host()
            .With("/proc/sys/vm/overcommit_memory", "2")
            .With("/proc/meminfo", "MemAvailable:  8388608 kB\nCommitLimit:  2097152 kB\nCommitted_AS:  1572864 kB");

        HostCheck check = Failed(host, new MemoryPlanBlock(GuestMemoryKind.Anonymous, GiB));

        Assert.Equal("overcommit", check.Name);
        Assert.Contains("512 MiB left of the commit limit of 2 GiB", check.Detail, StringComparison.Ordinal);
    }

    [Fact]
    public void WhatCannotBeReadIsAWarningAndNotAnException()
    {
        using HostFixture empty = new();

        MemoryPlanReport report = MemoryPlan.CheckAgainst([new(GuestMemoryKind.Anonymous, GiB) { Locked = true }], empty.Files);

        Assert.All(report.Checks, c => Assert.Equal(HostCheckStatus.Warning, c.Status));
        Assert.Equal("memory-available cgroup-memory mappings locked-memory", Names(report));
    }

    [Fact]
    public void BadBlocksAreRefused()
    {
        Assert.Throws<ArgumentException>(() => MemoryPlan.Check([new(GuestMemoryKind.Anonymous, 0)]));
        Assert.Throws<ArgumentException>(() => MemoryPlan.Check([new(GuestMemoryKind.Hugetlb, MiB)]));
        Assert.Throws<ArgumentNullException>(() => MemoryPlan.Check(null!));
        Assert.Throws<OverflowException>(() => MemoryPlan.Check([new(GuestMemoryKind.Anonymous, 1L << 62), new(GuestMemoryKind.Anonymous, 1L << 62)]));
    }

    [Fact]
    public void ThisHostIsReadWithoutAnUnknown()
    {
        MemoryPlanReport report = MemoryPlan.Check([new(GuestMemoryKind.Anonymous, 64 << 10) { Locked = true }]);
        MemoryPlanReport tooMuch = MemoryPlan.Check([new(GuestMemoryKind.Anonymous, 1L << 50)]);

        output.WriteLine(report.ToString());
        output.WriteLine(tooMuch.ToString());
        Assert.True(report.IsSufficient, report.ToString());
        Assert.False(tooMuch.IsSufficient);
        Assert.Contains(tooMuch.Checks, c => c is { Name: "memory-available", Status: HostCheckStatus.Failed });
    }

    [Fact]
    public void ARealGroupsLimitIsSeenFromAGroupBelowIt()
    {
        using MemoryCgroup group = MemoryCgroup.Create(512 * MiB);
        using ChildProcess child = ChildProcess.Start(PlanInAGroup);
        Assert.Equal("ready", child.ReadLine());
        group.Add(child);
        child.WriteLine("in the group");
        string report = child.ReadToEnd();
        child.WaitForSuccess();

        output.WriteLine(report);
        Assert.Contains("256 MiB: True", report, StringComparison.Ordinal);
        Assert.Contains("2 GiB: False", report, StringComparison.Ordinal);
        Assert.Contains($"left of 512 MiB in {Path.GetDirectoryName(group.LimitFile)};", report, StringComparison.Ordinal);
        Assert.Contains(group.LimitFile, report, StringComparison.Ordinal);
    }

    [Fact]
    public void GoingOnBeyondARealLimitGetsTheProcessKilled()
    {
        Requires.Userfaultfd();
        using MemoryCgroup group = MemoryCgroup.Create(128 * MiB);
        using ChildProcess child = ChildProcess.Start(CopyBeyondTheLimit);
        Assert.Equal("ready", child.ReadLine());
        group.Add(child);
        child.WriteLine("in the group");

        // No errno reports it (hazard H49): that is why there is a plan.
        Assert.Equal("plan: False", child.ReadLine());
        Assert.Equal(128 + TestLibc.SIGKILL, child.WaitForExit());
        Assert.DoesNotContain("OutOfMemory", child.ReadToEnd(), StringComparison.Ordinal);
    }

    private static void PlanInAGroup(ChildScenario child)
    {
        child.Say("ready");
        _ = child.Hear();
        MemoryPlanReport small = MemoryPlan.Check([new(GuestMemoryKind.Anonymous, 256 * MiB)]);
        MemoryPlanReport large = MemoryPlan.Check([new(GuestMemoryKind.Anonymous, 2 * GiB)]);
        child.Say($"256 MiB: {small.IsSufficient}");
        child.Say($"2 GiB: {large.IsSufficient}");
        child.Say(large.ToString());
    }

    private static void CopyBeyondTheLimit(ChildScenario child)
    {
        const int pages = 256 << 8;
        child.Say("ready");
        _ = child.Hear();
        child.Say($"plan: {MemoryPlan.Check([new(GuestMemoryKind.Anonymous, pages * 4096L)]).IsSufficient}");
        using GuestMemory memory = GuestMemory.Allocate(new() { Length = pages * 4096L });
        using RawMapping source = RawMapping.Anonymous(1).Fill(1);
        using UffdHandle uffd = UffdHandle.Open(Requires.AnyKind);
        _ = uffd.Negotiate();
        _ = uffd.Register(memory.Range, UffdModes.Missing);
        for (nuint page = 0; page < pages; page++)
        {
            UffdResult result = uffd.Copy(memory.Address + (page * 4096), source.Address, 4096);
            if (!result.IsDone)
            {
                child.Say(result.ToString());
                return;
            }
        }
    }

    private static HostFixture Host() => new HostFixture()
        .With("/proc/meminfo", "MemTotal:  16777216 kB\nMemAvailable:  8388608 kB\nSwapFree:  0 kB")
        .With("/proc/sys/vm/overcommit_memory", "0")
        .With("/proc/sys/vm/max_map_count", "65530")
        .With("/proc/self/maps", "a\nb\nc")
        .With("/proc/self/limits", "Max locked memory         unlimited            unlimited            bytes")
        .With("/proc/self/status", "VmLck:\t       0 kB\nCapEff:\t0000000000000000")
        .With("/proc/self/cgroup", "0::/vm")
        .With("/proc/self/mountinfo", "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate");

    private static void Pool(HostFixture host, string kiB, int total, int free, int reserved)
    {
        string pool = $"/sys/kernel/mm/hugepages/hugepages-{kiB}kB";
        _ = host.With($"{pool}/nr_hugepages", $"{total}").With($"{pool}/free_hugepages", $"{free}").With($"{pool}/resv_hugepages", $"{reserved}")
            .With($"{pool}/nr_overcommit_hugepages", "0").With($"{pool}/surplus_hugepages", "0");
    }

    private static HostCheck Failed(HostFixture host, params MemoryPlanBlock[] blocks)
    {
        MemoryPlanReport report = MemoryPlan.CheckAgainst(blocks, host.Files);
        Assert.False(report.IsSufficient);
        Assert.StartsWith("The host has NOT", report.ToString(), StringComparison.Ordinal);
        return Assert.Single(report.Checks, c => c.Status == HostCheckStatus.Failed);
    }

    private static HostCheck Check(HostFixture host, string name, MemoryPlanBlock block) =>
        Assert.Single(MemoryPlan.CheckAgainst([block], host.Files).Checks, c => c.Name == name);

    private static string Names(MemoryPlanReport report) => string.Join(' ', report.Checks.Select(c => c.Name));
}
