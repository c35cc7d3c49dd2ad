namespace Postcopy.Uffd;

/// <summary>One mounted cgroup hierarchy and the group in it that this process belongs to.</summary>
/// <param name="Controller">The controller of interest, <c>memory</c> or <c>hugetlb</c>; empty for version 2, which has all.</param>
/// <param name="Mount">Where it is mounted.</param>
/// <param name="Group">The process's group, relative to the mount; empty for the mount itself.</param>
/// <param name="CountsHugePages">True when huge pages count as memory (version 2, <c>memory_hugetlb_accounting</c>).</param>
internal sealed record CgroupHierarchy(string Controller, string Mount, string Group, bool CountsHugePages)
{
    internal bool IsVersion2 => Controller.Length == 0;

    /// <summary>The directories from the process's group up to the mount.</summary>
    internal IEnumerable<string> Groups()
    {
        for (string group = Group; group.Length > 0; group = group[..group.LastIndexOf('/')])
        {
            yield return Mount + group;
        }

        yield return Mount;
    }

    internal static List<CgroupHierarchy> Find(HostFiles files)
    {
        List<CgroupHierarchy> found = [];
        foreach (string line in files.Lines("/proc/self/cgroup") ?? [])
        {
            // "4:memory:/machine/vm1", version 2: "0::/machine/vm1"
            string[] parts = line.Split(':', 3);
            if (parts.Length < 3)
            {
                continue;
            }

            string? controller = parts[0] == "0" ? string.Empty : parts[1].Split(',').FirstOrDefault(c => c is "memory" or "hugetlb");
            if (controller is not null && FindMount(files, controller) is var (mount, root, options))
            {
                found.Add(new CgroupHierarchy(controller, mount, Relative(parts[2], root), options.Contains("memory_hugetlb_accounting", StringComparison.Ordinal)));
            }
        }

        return found;
    }

    private static (string Mount, string Root, string Options)? FindMount(HostFiles files, string controller)
    {
        foreach (string line in files.Lines("/proc/self/mountinfo") ?? [])
        {
            // "36 25 0:31 /root /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory": proc(5)
            int dash = line.IndexOf(" - ", StringComparison.Ordinal);
            if (dash < 0)
            {
                continue;
            }

            string[] left = line[..dash].Split(' ');
            string[] right = line[(dash + 3)..].Split(' ');
            bool wanted = controller.Length == 0
                ? right[0] == "cgroup2"
                : right[0] == "cgroup" && right.Length > 2 && right[2].Split(',').Contains(controller);
            if (wanted && left.Length > 4)
            {
                return (left[4], left[3], right.Length > 2 ? right[2] : string.Empty);
            }
        }

        return null;
    }

    private static string Relative(string group, string root)
    {
        // A container may see a part of the hierarchy only: the mount's root is then the path of that part.
        string rest = root != "/" && (group == root || group.StartsWith(root + "/", StringComparison.Ordinal)) ? group[root.Length..] : group;
        return rest == "/" || rest.Contains("/..", StringComparison.Ordinal) ? string.Empty : rest;
    }
}
