namespace Postcopy.Mutation;

/// <summary>One guard that is taken out: an exact piece of source, what stands there instead, and who must notice.</summary>
/// <param name="Name">A short name.</param>
/// <param name="File">The source file, from the repository's root.</param>
/// <param name="Why">What the guard is for.</param>
/// <param name="Tests">Test project and classes that must fail; none when a model must.</param>
/// <param name="Model">A switch of tests/models that must make it fail; empty when tests must.</param>
/// <param name="Original">The exact source, which must occur once.</param>
/// <param name="Replacement">What is there without the guard.</param>
/// <param name="IsQuick">Part of the selection that every check of the project runs.</param>
internal sealed record Guard(
    string Name, string File, string Why, IReadOnlyList<(string Project, IReadOnlyList<string> Classes)> Tests, string Model, string Original, string Replacement, bool IsQuick)
{
    /// <summary>Reads a file of guards; its format is described in docs/reliability.md and at the top of the file.</summary>
    internal static IEnumerable<Guard> Read(string path)
    {
        string[] lines = System.IO.File.ReadAllLines(path);
        for (int at = 0; at < lines.Length; at++)
        {
            if (lines[at].StartsWith("== ", StringComparison.Ordinal))
            {
                yield return ReadOne(path, lines, ref at);
            }
        }
    }

    internal string Project => File.Split('/')[1];

    private static Guard ReadOne(string path, string[] lines, ref int at)
    {
        int first = at;
        string[] title = lines[at++][3..].Split(' ');
        Dictionary<string, List<string>> fields = [];
        for (; at < lines.Length && lines[at] != "<<<<"; at++)
        {
            string[] pair = lines[at].Split(": ", 2);
            if (pair.Length != 2)
            {
                throw new MutationException($"{path}:{at + 1}: expected 'name: value' or '<<<<', found '{lines[at]}'.");
            }

            fields.TryAdd(pair[0], []);
            fields[pair[0]].Add(pair[1]);
        }

        string original = Block(path, lines, ref at, "====");
        string replacement = Block(path, lines, ref at, ">>>>");
        string One(string name) => fields.TryGetValue(name, out List<string>? values) ? values[0] : string.Empty;
        List<(string, IReadOnlyList<string>)> tests = [];
        foreach ((string field, string project) in new[] { ("core", "Postcopy.Uffd.Tests"), ("qemu", "Postcopy.Uffd.Qemu.Tests") })
        {
            if (fields.TryGetValue(field, out List<string>? classes))
            {
                tests.Add((project, [.. classes.SelectMany(c => c.Split(' ', StringSplitOptions.RemoveEmptyEntries))]));
            }
        }

        if (One("file").Length == 0 || One("why").Length == 0 || (tests.Count == 0 && One("model").Length == 0))
        {
            throw new MutationException($"{path}:{first + 1}: a guard has 'file:', 'why:' and one of 'core:', 'qemu:' and 'model:'.");
        }

        return new Guard(title[0], One("file"), One("why"), tests, One("model"), original, replacement, title.Contains("quick"));
    }

    private static string Block(string path, string[] lines, ref int at, string end)
    {
        int from = at + 1;
        for (at = from; at < lines.Length && lines[at] != end; at++)
        {
        }

        return at < lines.Length
            ? string.Join('\n', lines[from..at])
            : throw new MutationException($"{path}:{from}: no '{end}' follows.");
    }
}
