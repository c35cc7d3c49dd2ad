using System.Globalization;

namespace Postcopy.Uffd;

/// <summary>Compares what a migration will need with what this process may have, before it starts.</summary>
/// <remarks>
/// Placing pages beyond a memory cgroup's limit does not fail with ENOMEM: the kernel kills the process, and with it
/// the guest that already ran here (hazard H49). So the limits are read first, and a migration that cannot fit is
/// refused while the source still has everything. The answer is about now; memory that others take later is not in it.
/// </remarks>
public static class MemoryPlan
{
    // The memory, a second mapping of it for CONTINUE, and the two bitmaps of the block.
    private const int MappingsPerBlock = 4;

    // Staging, receive buffers and thread stacks of a destination.
    private const int MappingsOfTheDestination = 64;

    /// <summary>Checks memory that is not allocated yet.</summary>
    /// <param name="blocks">All guest memory that the migration will allocate.</param>
    /// <exception cref="ArgumentException">A block has no bytes, or no whole pages.</exception>
    public static MemoryPlanReport Check(IReadOnlyList<MemoryPlanBlock> blocks) => CheckAgainst(blocks, HostFiles.Real);

    internal static MemoryPlanReport CheckAgainst(IReadOnlyList<MemoryPlanBlock> blocks, HostFiles files)
    {
        ArgumentNullException.ThrowIfNull(blocks);
        foreach (MemoryPlanBlock block in blocks)
        {
            if (block.Length <= 0 || !block.EffectivePageSize.IsAligned(block.Length))
            {
                throw new ArgumentException($"A block of {block.Length} bytes is not made of pages of {block.EffectivePageSize}.", nameof(blocks));
            }
        }

        long small = Sum(blocks.Where(b => b.Kind != GuestMemoryKind.Hugetlb), b => b.Length);
        // Eight bytes of page table and two bits of bitmap for each small page.
        long overhead = small / PageSize.Host.Bytes * 8 + small / PageSize.Host.Bytes / 4;
        long huge = Sum(blocks.Where(b => b.Kind == GuestMemoryKind.Hugetlb), b => b.Length);

        List<HostCheck> checks =
        [
            Available(checked(small + overhead), files),
            .. Overcommit(small, files),
            .. CgroupPlan.Check(checked(small + overhead), huge, blocks, files),
            .. HugePages(blocks, files),
            Mappings(blocks.Count, files),
            .. Locked(Sum(blocks.Where(b => b.Locked), b => b.Length), files),
        ];
        return new MemoryPlanReport(checks);
    }

    internal static string Size(long bytes) => bytes switch
    {
        >= 1L << 30 => string.Create(CultureInfo.InvariantCulture, $"{bytes / (double)(1L << 30):0.##} GiB"),
        >= 1L << 20 => string.Create(CultureInfo.InvariantCulture, $"{bytes / (double)(1L << 20):0.##} MiB"),
        _ => string.Create(CultureInfo.InvariantCulture, $"{bytes} bytes"),
    };

    private static HostCheck Available(long needed, HostFiles files)
    {
        const string name = "memory-available";
        if (files.Field("/proc/meminfo", "MemAvailable:") is not { } availableKiB)
        {
            return HostCheck.Warn(name, "MemAvailable of /proc/meminfo cannot be read", "mount /proc");
        }

        long available = availableKiB << 10;
        long swap = (files.Field("/proc/meminfo", "SwapFree:") ?? 0) << 10;
        string detail = $"{Size(needed)} needed, {Size(available)} available";
        return needed <= available
            ? HostCheck.Ok(name, detail)
            : needed <= available + swap
                ? HostCheck.Warn(name, $"{detail} and {Size(swap)} of swap: the guest would be swapped out", "free memory on this host, or choose another")
                : HostCheck.Fail(name, $"{detail}; beyond it the kernel kills a process, no error comes", "free memory on this host, or choose another");
    }

    private static IEnumerable<HostCheck> Overcommit(long needed, HostFiles files)
    {
        const string name = "overcommit";
        if (files.Number("/proc/sys/vm/overcommit_memory") != 2)
        {
            yield break;
        }

        long limit = (files.Field("/proc/meminfo", "CommitLimit:") ?? long.MaxValue >> 10) << 10;
        long committed = (files.Field("/proc/meminfo", "Committed_AS:") ?? 0) << 10;
        string detail = $"{Size(needed)} needed, {Size(Math.Max(0, limit - committed))} left of the commit limit of {Size(limit)} (vm.overcommit_memory=2)";
        yield return needed <= limit - committed
            ? HostCheck.Ok(name, detail)
            : HostCheck.Fail(name, detail, "raise vm.overcommit_ratio or vm.overcommit_kbytes, or set vm.overcommit_memory=0");
    }

    private static IEnumerable<HostCheck> HugePages(IReadOnlyList<MemoryPlanBlock> blocks, HostFiles files)
    {
        foreach (IGrouping<PageSize, MemoryPlanBlock> size in blocks.Where(b => b.Kind == GuestMemoryKind.Hugetlb).GroupBy(b => b.EffectivePageSize))
        {
            HugePagePool pool = HugePagePool.Read(size.Key, files.Path("/sys/kernel/mm/hugepages"));
            long needed = Sum(size, b => b.Length / size.Key.Bytes);
            string path = $"/sys/kernel/mm/hugepages/hugepages-{size.Key.Bytes >> 10}kB/nr_hugepages";
            string detail = $"{needed} pages of {size.Key} needed, {pool.Available} available ({pool.Total} in the pool, {pool.Free} free, {pool.Reserved} reserved)";
            yield return !pool.Exists
                ? HostCheck.Fail("huge-pages", $"{needed} pages of {size.Key} needed, and this kernel has no such pool", "use pages of a size in /sys/kernel/mm/hugepages")
                : needed <= pool.Available
                    ? HostCheck.Ok("huge-pages", detail)
                    : HostCheck.Fail("huge-pages", detail, $"echo {pool.Total + needed - pool.Available} > {path}");
        }
    }

    private static HostCheck Mappings(int blocks, HostFiles files)
    {
        const string name = "mappings";
        long needed = checked(((long)blocks * MappingsPerBlock) + MappingsOfTheDestination);
        if (files.Number("/proc/sys/vm/max_map_count") is not { } limit || files.Lines("/proc/self/maps") is not { } maps)
        {
            return HostCheck.Warn(name, "vm.max_map_count or the present mappings cannot be read", "mount /proc");
        }

        long present = maps.LongLength;
        string detail = $"{present} present and {needed} needed, limit {limit} (vm.max_map_count)";
        return present + needed <= limit
            ? HostCheck.Ok(name, detail)
            : HostCheck.Fail(name, detail, $"sysctl vm.max_map_count={(present + needed) * 2}");
    }

    private static IEnumerable<HostCheck> Locked(long needed, HostFiles files)
    {
        const int capIpcLock = 14;
        const string name = "locked-memory";
        if (needed == 0)
        {
            yield break;
        }

        string? limitLine = files.Lines("/proc/self/limits")?.FirstOrDefault(l => l.StartsWith("Max locked memory", StringComparison.Ordinal));
        string? capabilities = files.Lines("/proc/self/status")?.FirstOrDefault(l => l.StartsWith("CapEff:", StringComparison.Ordinal));
        string? word = limitLine?["Max locked memory".Length..].Split(' ', StringSplitOptions.RemoveEmptyEntries).FirstOrDefault();
        bool privileged = capabilities is not null &&
            ulong.TryParse(capabilities["CapEff:".Length..].Trim(), NumberStyles.HexNumber, CultureInfo.InvariantCulture, out ulong mask) && (mask & (1UL << capIpcLock)) != 0;
        long locked = (files.Field("/proc/self/status", "VmLck:") ?? 0) << 10;
        if (privileged || word == "unlimited")
        {
            yield return HostCheck.Ok(name, $"{Size(needed)} will be locked, {Size(locked)} are; no limit ({(privileged ? "CAP_IPC_LOCK" : "RLIMIT_MEMLOCK")})");
        }
        else if (!long.TryParse(word, NumberStyles.None, CultureInfo.InvariantCulture, out long limit))
        {
            yield return HostCheck.Warn(name, "RLIMIT_MEMLOCK cannot be read from /proc/self/limits", "mount /proc");
        }
        else
        {
            string detail = $"{Size(needed)} will be locked, {Size(locked)} are, limit {Size(limit)} (RLIMIT_MEMLOCK)";
            yield return locked <= limit - needed
                ? HostCheck.Ok(name, detail)
                : HostCheck.Fail(name, detail, $"ulimit -l {(locked + needed + 1023) >> 10} (systemd: LimitMEMLOCK={locked + needed}), or CAP_IPC_LOCK");
        }
    }

    private static long Sum(IEnumerable<MemoryPlanBlock> blocks, Func<MemoryPlanBlock, long> of)
    {
        long sum = 0;
        foreach (MemoryPlanBlock block in blocks)
        {
            sum = checked(sum + of(block));
        }

        return sum;
    }
}
