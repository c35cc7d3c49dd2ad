namespace Postcopy.Vmm.Tests;

/// <summary>Where the sources are: above the built tests.</summary>
internal static class Repository
{
    // Not the compiler's path of this file: a deterministic build on a CI machine maps it to "/_/".
    internal static string Root { get; } = Find();

    private static string Find()
    {
        string? folder = AppContext.BaseDirectory;
        while (folder is not null && !File.Exists(Path.Combine(folder, "Postcopy.Uffd.sln")))
        {
            folder = Path.GetDirectoryName(folder);
        }

        return folder ?? throw new InvalidOperationException($"No Postcopy.Uffd.sln above {AppContext.BaseDirectory}.");
    }
}
