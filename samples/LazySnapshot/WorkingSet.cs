using System.Globalization;

namespace LazySnapshot;

/// <summary>
/// The pages that vCPUs asked for, in their order: recorded by one restore, fetched ahead by the next. A text file: one
/// line of format, then a line per run of pages, its offset and length in bytes.
/// </summary>
internal sealed class WorkingSet
{
    private const string Format = "lazy-snapshot working set 1";

    private readonly List<(long Offset, long Length)> _runs = [];
    private readonly Lock _lock = new();

    internal long Bytes { get; private set; }

    internal IReadOnlyList<(long Offset, long Length)> Runs
    {
        get
        {
            lock (_lock)
            {
                return [.. _runs];
            }
        }
    }

    internal void Add(long offset, long length)
    {
        lock (_lock)
        {
            if (_runs.Count > 0 && _runs[^1].Offset + _runs[^1].Length == offset)
            {
                _runs[^1] = (_runs[^1].Offset, _runs[^1].Length + length);
            }
            else
            {
                _runs.Add((offset, length));
            }

            Bytes += length;
        }
    }

    internal void Save(string path) => File.WriteAllLines(path,
        Runs.Select(r => string.Create(CultureInfo.InvariantCulture, $"{r.Offset} {r.Length}")).Prepend(Format));

    /// <summary>Reads a recorded working set.</summary>
    /// <exception cref="InvalidDataException">It is not one, or reaches beyond an image of <paramref name="imageLength"/> bytes.</exception>
    internal static WorkingSet Load(string path, long imageLength, long pageBytes)
    {
        string[] lines = File.ReadAllLines(path);
        if (lines.Length == 0 || lines[0] != Format)
        {
            throw new InvalidDataException($"'{path}' is no working set: its first line is not '{Format}'.");
        }

        WorkingSet set = new();
        for (int i = 1; i < lines.Length; i++)
        {
            string[] words = lines[i].Split(' ');
            if (words.Length != 2 ||
                !long.TryParse(words[0], NumberStyles.None, CultureInfo.InvariantCulture, out long offset) ||
                !long.TryParse(words[1], NumberStyles.None, CultureInfo.InvariantCulture, out long length) ||
                offset % pageBytes != 0 || length % pageBytes != 0 || length == 0 || offset > imageLength - length)
            {
                throw new InvalidDataException($"'{path}', line {i + 1}: '{lines[i]}' is not an offset and a length of whole pages inside the image of {imageLength} bytes.");
            }

            set.Add(offset, length);
        }

        return set;
    }
}
