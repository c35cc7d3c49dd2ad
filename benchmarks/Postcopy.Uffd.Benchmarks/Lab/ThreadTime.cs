using System.Globalization;

namespace Postcopy.Uffd.Benchmarks.Lab;

/// <summary>Processor time of one thread, as the scheduler counts it in nanoseconds.</summary>
internal static class ThreadTime
{
    /// <summary>The kernel's id of a thread of this process by its name (the first 15 characters count).</summary>
    internal static int Find(string name)
    {
        string wanted = name.Length > 15 ? name[..15] : name;
        string? task = Directory.GetDirectories("/proc/self/task").LastOrDefault(t => File.ReadAllText($"{t}/comm").TrimEnd() == wanted);
        return task is null
            ? throw new LabException($"There is no thread '{name}'.")
            : int.Parse(Path.GetFileName(task), CultureInfo.InvariantCulture);
    }

    internal static TimeSpan Of(int thread)
    {
        string path = $"/proc/self/task/{thread}/schedstat";
        return TimeSpan.FromMicroseconds(double.Parse(File.ReadAllText(path).Split(' ')[0], CultureInfo.InvariantCulture) / 1000);
    }
}
