using System.Text.RegularExpressions;

namespace Postcopy.Destination.Tests;

public sealed partial class ReadmeTests
{
    private static readonly string s_root = Root();

    [Fact]
    public void TheReadmesExampleIsTheSampleThatIsBuiltAndRun()
    {
        string readme = File.ReadAllText(Path.Combine(s_root, "README.md"));
        MatchCollection snippets = Snippet().Matches(readme);
        Assert.NotEmpty(snippets);
        foreach (Match snippet in snippets)
        {
            Assert.Equal(File.ReadAllText(Path.Combine(s_root, snippet.Groups[1].Value)), snippet.Groups[2].Value);
        }
    }

    [Fact(Timeout = 60_000)]
    public async Task TheFirstExampleServesItsFault()
    {
        using SampleProcess sample = SampleProcess.Start(Path.Combine(AppContext.BaseDirectory, "FirstFault"), []);
        int exit = await sample.ExitAsync(TimeSpan.FromSeconds(30));
        Assert.True(exit == 0, sample.Error);
        Assert.Contains("the vCPU read 'hello'", sample.Output, StringComparison.Ordinal);
        Assert.Matches(@"the guest stood still for [1-9]\d* us; 1 page was asked for", sample.Output);
    }

    [Fact]
    public void EveryLinkBetweenDocumentsLeadsSomewhere()
    {
        string[] documents = [.. Directory.GetFiles(s_root, "*.md"), .. Directory.GetFiles(Path.Combine(s_root, "docs"), "*.md", SearchOption.AllDirectories)];
        Assert.True(documents.Length > 5);
        foreach (string document in documents)
        {
            foreach (Match link in Link().Matches(File.ReadAllText(document)))
            {
                string target = link.Groups[1].Value;
                if (!target.Contains("://", StringComparison.Ordinal) && !target.StartsWith('#'))
                {
                    string path = Path.Combine(Path.GetDirectoryName(document)!, target.Split('#')[0]);
                    Assert.True(Path.Exists(path), $"{Path.GetRelativePath(s_root, document)} links to {target}, which does not exist");
                }
            }
        }
    }

    [Fact]
    public void TheReadmesTwoCommandsAreTheFirstThingToType()
    {
        string readme = File.ReadAllText(Path.Combine(s_root, "README.md"));
        int first = readme.IndexOf("dotnet run -c Release --project samples/Postcopy.Destination", StringComparison.Ordinal);
        int second = readme.IndexOf("dotnet test", StringComparison.Ordinal);
        Assert.InRange(first, 0, second);
        Assert.InRange(second, 0, 1000);
    }

    private static string Root()
    {
        string folder = AppContext.BaseDirectory;
        while (!File.Exists(Path.Combine(folder, "Postcopy.Uffd.sln")))
        {
            folder = Path.GetDirectoryName(folder) ?? throw new InvalidOperationException("Postcopy.Uffd.sln is in no folder above the tests.");
        }

        return folder;
    }

    [GeneratedRegex("<!-- snippet: (\\S+) -->\n```csharp\n(.*?)```\n<!-- end snippet -->", RegexOptions.Singleline)]
    private static partial Regex Snippet();

    [GeneratedRegex(@"\]\(([^)\s]+)\)")]
    private static partial Regex Link();
}
