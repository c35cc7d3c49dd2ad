using System.Globalization;

namespace Postcopy.Uffd;

/// <summary>Reads <c>/proc</c> and <c>/sys</c>, below a root that tests replace. What cannot be read is null.</summary>
internal sealed class HostFiles(string root)
{
    internal static HostFiles Real { get; } = new(string.Empty);

    /// <summary>Where the file of the host really lies.</summary>
    internal string Path(string path) => root + path;

    internal string[]? Lines(string path)
    {
        try
        {
            return File.ReadAllLines(Path(path));
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }

    /// <summary>A file of one number; null also for <c>max</c>, which is no limit.</summary>
    internal long? Number(string path) =>
        Lines(path) is [{ } line, ..] && long.TryParse(line.AsSpan().Trim(), NumberStyles.None, CultureInfo.InvariantCulture, out long value) ? value : null;

    /// <summary>The number behind a label, as in <c>MemAvailable:  24380708 kB</c> or <c>inactive_file 4096</c>.</summary>
    internal long? Field(string path, string label)
    {
        foreach (string line in Lines(path) ?? [])
        {
            string[] words = line.Split([' ', '\t'], StringSplitOptions.RemoveEmptyEntries);
            if (words.Length > 1 && words[0] == label && long.TryParse(words[1], NumberStyles.None, CultureInfo.InvariantCulture, out long value))
            {
                return value;
            }
        }

        return null;
    }
}
