namespace Postcopy.Uffd;

/// <summary>
/// The limits of the control groups that this process is in: cgroups(7). A limit binds all groups below it, so every
/// directory up to the mount is asked.
/// </summary>
internal static class CgroupPlan
{
    // Version 1 writes "no limit" as the largest multiple of the page size.
    private const long Unlimited = long.MaxValue >> 1;

    internal static IEnumerable<HostCheck> Check(long small, long huge, IReadOnlyList<MemoryPlanBlock> blocks, HostFiles files)
    {
        List<CgroupHierarchy> hierarchies = CgroupHierarchy.Find(files);
        CgroupHierarchy? unified = hierarchies.Find(h => h.IsVersion2);
        CgroupHierarchy? memory = hierarchies.Find(h => h.Controller == "memory") ?? unified;
        if (memory is null)
        {
            yield return HostCheck.Warn("cgroup-memory", "no control group with a memory controller was found, so its limit is not known", "mount the cgroup file system");
        }
        else
        {
            yield return Memory(memory, memory.CountsHugePages ? checked(small + huge) : small, files);
        }

        foreach (IGrouping<PageSize, MemoryPlanBlock> size in blocks.Where(b => b.Kind == GuestMemoryKind.Hugetlb).GroupBy(b => b.EffectivePageSize))
        {
            CgroupHierarchy? hugetlb = hierarchies.Find(h => h.Controller == "hugetlb") ?? unified;
            if (hugetlb is not null && Hugetlb(hugetlb, size.Key, size.Sum(b => b.Length), files) is { } check)
            {
                yield return check;
            }
        }
    }

    private static HostCheck Memory(CgroupHierarchy hierarchy, long needed, HostFiles files)
    {
        const string name = "cgroup-memory";
        (string limitFile, string usageFile) = hierarchy.IsVersion2 ? ("memory.max", "memory.current") : ("memory.limit_in_bytes", "memory.usage_in_bytes");
        HostCheck? tightest = null;
        long least = long.MaxValue;
        HostCheck? throttled = null;
        foreach (string group in hierarchy.Groups())
        {
            if (files.Number($"{group}/{usageFile}") is not { } usage)
            {
                continue;
            }

            // Page cache that the kernel can take back counts as usage and is no obstacle.
            string prefix = hierarchy.IsVersion2 ? string.Empty : "total_";
            long cache = (files.Field($"{group}/memory.stat", $"{prefix}inactive_file") ?? 0) + (files.Field($"{group}/memory.stat", $"{prefix}active_file") ?? 0);
            long headroom(long limit) => Math.Max(0, limit - Math.Max(0, usage - cache));
            if (files.Number($"{group}/{limitFile}") is { } limit and < Unlimited && headroom(limit) < least)
            {
                least = headroom(limit);
                string detail = $"{MemoryPlan.Size(needed)} needed, {MemoryPlan.Size(least)} left of {MemoryPlan.Size(limit)} in {group}";
                tightest = needed <= least
                    ? HostCheck.Ok(name, detail)
                    : HostCheck.Fail(name, $"{detail}; beyond the limit the kernel kills the process, no error comes",
                        $"give the container or unit more memory, or: echo {limit + needed - least} > {group}/{limitFile}");
            }

            if (hierarchy.IsVersion2 && files.Number($"{group}/memory.high") is { } high && needed > headroom(high))
            {
                throttled ??= HostCheck.Warn(name, $"{MemoryPlan.Size(needed)} needed, {MemoryPlan.Size(headroom(high))} left below memory.high in {group}: the kernel would slow the process down",
                    $"echo max > {group}/memory.high");
            }
        }

        return tightest is { Status: HostCheckStatus.Failed } ? tightest : throttled ?? tightest ?? HostCheck.Ok(name, "no limit");
    }

    private static HostCheck? Hugetlb(CgroupHierarchy hierarchy, PageSize size, long needed, HostFiles files)
    {
        string kernelName = size.Bytes >= 1 << 30 ? $"{size.Bytes >> 30}GB" : size.Bytes >= 1 << 20 ? $"{size.Bytes >> 20}MB" : $"{size.Bytes >> 10}KB";
        (string limitFile, string usageFile) = hierarchy.IsVersion2 ? ("max", "current") : ("limit_in_bytes", "usage_in_bytes");
        HostCheck? tightest = null;
        long least = long.MaxValue;
        foreach (string group in hierarchy.Groups())
        {
            // The limit on use and the one on reservations both bind: our mappings reserve all they will use.
            foreach (string account in (string[])[$"hugetlb.{kernelName}", $"hugetlb.{kernelName}.rsvd"])
            {
                if (files.Number($"{group}/{account}.{limitFile}") is { } limit and < Unlimited &&
                    files.Number($"{group}/{account}.{usageFile}") is { } usage && Math.Max(0, limit - usage) < least)
                {
                    least = Math.Max(0, limit - usage);
                    string detail = $"{MemoryPlan.Size(needed)} of {size} pages needed, {MemoryPlan.Size(least)} left of {MemoryPlan.Size(limit)} in {group}";
                    tightest = needed <= least
                        ? HostCheck.Ok("cgroup-hugetlb", detail)
                        : HostCheck.Fail("cgroup-hugetlb", detail, $"echo {limit + needed - least} > {group}/{account}.{limitFile}");
                }
            }
        }

        return tightest;
    }
}
