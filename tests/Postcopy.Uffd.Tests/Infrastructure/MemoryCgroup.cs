using System.Globalization;

namespace Postcopy.Uffd.Tests.Infrastructure;

/// <summary>A memory control group with a limit, and a child group in it that is empty of limits.</summary>
internal sealed class MemoryCgroup : IDisposable
{
    private readonly string _directory;

    private MemoryCgroup(string directory, string limitFile, string name)
    {
        _directory = directory;
        LimitFile = limitFile;
        Inner = $"{directory}/{name}";
    }

    /// <summary>The file that has the limit.</summary>
    internal string LimitFile { get; }

    /// <summary>The group that processes go into.</summary>
    internal string Inner { get; }

    internal static MemoryCgroup Create(long limit)
    {
        Requires.Root("A memory cgroup");
        const string v1 = "/sys/fs/cgroup/memory";
        const string v2 = "/sys/fs/cgroup";
        bool second = File.Exists($"{v2}/cgroup.subtree_control") &&
            File.ReadAllText($"{v2}/cgroup.subtree_control").Split([' ', '\n']).Contains("memory");
        Assert.SkipUnless(second || File.Exists($"{v1}/memory.limit_in_bytes"),
            "Needs the memory controller at /sys/fs/cgroup (version 2: echo +memory > /sys/fs/cgroup/cgroup.subtree_control).");
        string directory = $"{(second ? v2 : v1)}/postcopy-test-{Environment.ProcessId}-{Guid.NewGuid():N}";
        MemoryCgroup group = new(directory, $"{directory}/{(second ? "memory.max" : "memory.limit_in_bytes")}", "inner");
        _ = Directory.CreateDirectory(group.Inner);
        group.SetLimit(limit);
        return group;
    }

    internal void Add(ChildProcess child) => File.WriteAllText($"{Inner}/cgroup.procs", child.Id.ToString(CultureInfo.InvariantCulture));

    internal void SetLimit(long limit) => File.WriteAllText(LimitFile, limit.ToString(CultureInfo.InvariantCulture));

    /// <summary>How often the limit was in the way; version 1.</summary>
    internal long Failures => long.Parse(File.ReadAllText($"{_directory}/memory.failcnt"), CultureInfo.InvariantCulture);

    /// <summary>Who needs memory beyond the limit waits or gets ENOMEM instead of being killed; false with version 2, which has no such switch.</summary>
    internal bool TryForbidKilling()
    {
        if (!File.Exists($"{_directory}/memory.oom_control"))
        {
            return false;
        }

        File.WriteAllText($"{_directory}/memory.oom_control", "1");
        File.WriteAllText($"{Inner}/memory.oom_control", "1");
        return true;
    }

    public void Dispose()
    {
        // A group stays busy for a moment after its last process was reaped.
        Assert.True(Deadline.Reached(() => Remove(Inner) && Remove(_directory), TimeSpan.FromSeconds(5)), $"{_directory} could not be removed.");
    }

    private static bool Remove(string directory)
    {
        try
        {
            if (Directory.Exists(directory))
            {
                Directory.Delete(directory);
            }

            return true;
        }
        catch (IOException)
        {
            return false;
        }
    }
}
