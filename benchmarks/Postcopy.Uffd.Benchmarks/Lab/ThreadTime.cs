using System.Globalization;

namespace Postcopy.Uffd.Benchmarks.Lab;

/// <summary>Processor time of one thread, as the scheduler counts it in nanoseconds.</summary>
internal static class ThreadTime
{
    /// <summary>The kernel's id of the newest thread of this process with a name (its first 15 characters); waits for one.</summary>
    internal static int Find(string name)
    {
        string wanted = name.Length > 15 ? name[..15] : name;
        int found = 0;
        return SpinWait.SpinUntil(() => (found = Newest(wanted)) != 0, TimeSpan.FromSeconds(5))
            ? found
            : throw new LabException($"There is no thread '{name}'.");
    }

    private static int Newest(string name) => Directory.GetDirectories("/proc/self/task")
        .Where(t => File.ReadAllText($"{t}/comm").TrimEnd() == name)
        .Select(t => int.Parse(Path.GetFileName(t), CultureInfo.InvariantCulture))
        .DefaultIfEmpty()
        .Max();

    internal static TimeSpan Of(int thread)
    {
        string path = $"/proc/self/task/{thread}/schedstat";
        return TimeSpan.FromMicroseconds(double.Parse(File.ReadAllText(path).Split(' ')[0], CultureInfo.InvariantCulture) / 1000);
    }
}
