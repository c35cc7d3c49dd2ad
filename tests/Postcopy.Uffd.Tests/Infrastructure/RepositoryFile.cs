namespace Postcopy.Uffd.Tests.Infrastructure;

/// <summary>Files of the repository that the tests run in, such as documents whose tables are compared with the code.</summary>
internal static class RepositoryFile
{
    internal static string[] Lines(params string[] path) => File.ReadAllLines(PathOf(path));

    internal static string PathOf(params string[] path)
    {
        string? folder = AppContext.BaseDirectory;
        while (folder is not null && !File.Exists(Path.Combine(folder, "Postcopy.Uffd.sln")))
        {
            folder = Path.GetDirectoryName(folder);
        }

        return Path.Combine([folder ?? throw new InvalidOperationException("The tests do not run inside the repository."), .. path]);
    }
}
