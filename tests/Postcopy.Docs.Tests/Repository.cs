namespace Postcopy.Docs.Tests;

/// <summary>The documents of the repository that people wrote.</summary>
internal static class Repository
{
    internal static string Root { get; } = FindRoot();

    /// <summary>Paths of all Markdown files, from the root.</summary>
    internal static IReadOnlyList<string> Documents { get; } =
    [
        .. Directory.EnumerateFiles(Root, "*.md", new EnumerationOptions { RecurseSubdirectories = true, AttributesToSkip = FileAttributes.Hidden })
            .Select(path => Path.GetRelativePath(Root, path))
            .Where(path => !path.Split('/').Intersect(["bin", "obj", "artifacts", "node_modules"]).Any())
            .Order(StringComparer.Ordinal),
    ];

    internal static string Read(string path) => File.ReadAllText(Path.Combine(Root, path));

    private static string FindRoot()
    {
        string folder = AppContext.BaseDirectory;
        while (!File.Exists(Path.Combine(folder, "Postcopy.Uffd.sln")))
        {
            folder = Path.GetDirectoryName(folder) ?? throw new InvalidOperationException("Postcopy.Uffd.sln is in no folder above the tests.");
        }

        return folder;
    }
}
