using System.Globalization;
using System.Text.RegularExpressions;

namespace Postcopy.Docs.Tests;

/// <summary>docs/hazards.md: every hazard has its row, and every test that a row names is there.</summary>
public sealed partial class HazardTests
{
    private const int Hazards = 50;

    private static readonly string[] s_rows = [.. Repository.Read("docs/hazards.md").Split('\n').Where(line => Row().IsMatch(line))];

    [Fact]
    public void EveryHazardHasOneRowWithACureAndATest()
    {
        Assert.Equal(Enumerable.Range(1, Hazards), s_rows.Select(Number).Order());
        Assert.All(s_rows, row =>
        {
            string[] cells = [.. row.Trim('|').Split('|', StringSplitOptions.TrimEntries)];
            Assert.Equal(4, cells.Length);
            Assert.DoesNotContain(cells, string.IsNullOrEmpty);
            Assert.NotEmpty(TestName().Matches(cells[3]));
        });
    }

    [Fact]
    public void EveryTestThatIsNamedExists()
    {
        Dictionary<string, string> sources = Directory.EnumerateFiles(Path.Combine(Repository.Root, "tests"), "*Tests.cs", SearchOption.AllDirectories)
            .GroupBy(path => Path.GetFileNameWithoutExtension(path))
            .ToDictionary(files => files.Key, files => string.Concat(files.Select(File.ReadAllText)));
        foreach (Match test in s_rows.SelectMany(row => TestName().Matches(row)))
        {
            (string type, string method) = (test.Groups["type"].Value, test.Groups["method"].Value);
            Assert.True(sources.TryGetValue(type, out string? source) && source.Contains($" {method}(", StringComparison.Ordinal), $"There is no test {type}.{method}.");
        }
    }

    [Fact]
    public void EveryNumberInTheSourcesIsAHazard()
    {
        string[] folders = ["src", "samples", "tests", "benchmarks"];
        int[] named = [.. folders.SelectMany(folder => Directory.EnumerateFiles(Path.Combine(Repository.Root, folder), "*.cs", SearchOption.AllDirectories))
            .SelectMany(path => Mention().Matches(File.ReadAllText(path)))
            .SelectMany(mention => mention.Groups["number"].Captures)
            .Select(number => int.Parse(number.Value, CultureInfo.InvariantCulture)).Distinct()];
        Assert.True(named.Length > 20);
        Assert.All(named, number => Assert.InRange(number, 1, Hazards));
    }

    private static int Number(string row) => int.Parse(Row().Match(row).Groups["number"].Value, CultureInfo.InvariantCulture);

    [GeneratedRegex(@"^\| H(?<number>\d+) \|")]
    private static partial Regex Row();

    [GeneratedRegex(@"`(?<type>\w+Tests)\.(?<method>\w+)`")]
    private static partial Regex TestName();

    [GeneratedRegex(@"\bhazards? H(?<number>\d+)(?:(?:, | and )H(?<number>\d+))*")]
    private static partial Regex Mention();
}
