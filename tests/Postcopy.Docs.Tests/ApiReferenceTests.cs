namespace Postcopy.Docs.Tests;

public sealed class ApiReferenceTests
{
    public static TheoryData<string> Packages =>
    [
        .. Directory.GetDirectories(Path.Combine(Repository.Root, "src")).Select(path => Path.GetFileName(path)!).Order(StringComparer.Ordinal),
    ];

    /// <summary>With POSTCOPY_UPDATE=1 the pages are written instead.</summary>
    [Theory]
    [MemberData(nameof(Packages))]
    public void ItIsWhatTheDocumentationSays(string package)
    {
        string path = Path.Combine(Repository.Root, "docs", "api", package + ".md"), expected = ApiReference.Of(package);
        if (Environment.GetEnvironmentVariable("POSTCOPY_UPDATE") == "1")
        {
            _ = Directory.CreateDirectory(Path.GetDirectoryName(path)!);
            File.WriteAllText(path, expected);
        }

        Assert.True(File.Exists(path) && File.ReadAllText(path) == expected,
            $"docs/api/{package}.md is not what the code's documentation says; 'POSTCOPY_UPDATE=1 dotnet test --project tests/Postcopy.Docs.Tests' writes it.");
    }
}
