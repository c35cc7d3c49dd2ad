using System.Text.RegularExpressions;
using Postcopy.Destination.Tests;

namespace Postcopy.Docs.Tests;

public sealed partial class ReadmeTests
{
    [Fact]
    public void TheReadmesExampleIsTheSampleThatIsBuiltAndRun()
    {
        string readme = Repository.Read("README.md");
        MatchCollection snippets = Snippet().Matches(readme);
        Assert.NotEmpty(snippets);
        foreach (Match snippet in snippets)
        {
            Assert.Equal(Repository.Read(snippet.Groups[1].Value), snippet.Groups[2].Value);
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
    public void TheReadmesTwoCommandsAreTheFirstThingToType()
    {
        string readme = Repository.Read("README.md");
        int first = readme.IndexOf("dotnet run -c Release --project samples/Postcopy.Destination", StringComparison.Ordinal);
        int second = readme.IndexOf("dotnet test", StringComparison.Ordinal);
        Assert.InRange(first, 0, second);
        Assert.InRange(second, 0, 1000);
    }

    [GeneratedRegex("<!-- snippet: (\\S+) -->\n```csharp\n(.*?)```\n<!-- end snippet -->", RegexOptions.Singleline)]
    private static partial Regex Snippet();
}
