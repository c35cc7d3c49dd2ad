using System.Text.RegularExpressions;

namespace Postcopy.Docs.Tests;

public sealed partial class LinkTests
{
    public static TheoryData<string> Documents => [.. Repository.Documents];

    [Theory]
    [MemberData(nameof(Documents))]
    public void EveryLinkLeadsSomewhere(string document)
    {
        string folder = Path.GetDirectoryName(document)!;
        foreach (string target in Links(Repository.Read(document)))
        {
            if (Uri.TryCreate(target, UriKind.Absolute, out Uri? address) && address.Scheme != Uri.UriSchemeFile)
            {
                // Nothing outside is asked: a test that needs the network fails without one.
                Assert.True(address.Scheme is "https" or "mailto" && address.Host.Length > 0, $"{document}: {target} is not an https address");
                continue;
            }

            string[] parts = target.Split('#');
            string path = parts[0].Length == 0 ? document : Path.Combine(folder, parts[0]);
            Assert.True(Path.Exists(Path.Combine(Repository.Root, path)), $"{document} links to {target}, which does not exist");
            if (parts.Length == 2 && path.EndsWith(".md", StringComparison.Ordinal))
            {
                Assert.True(Anchors(Repository.Read(path)).Contains(parts[1]), $"{document} links to {target}, but there is no such heading");
            }
        }
    }

    [Fact]
    public void ThePackagesDocumentsHaveNoRelativeLinks()
    {
        // nuget.org shows them without the files around them.
        foreach (string document in Repository.Documents.Where(d => d.EndsWith("PACKAGE.md", StringComparison.Ordinal)))
        {
            Assert.All(Links(Repository.Read(document)), target => Assert.StartsWith("https://", target, StringComparison.Ordinal));
        }
    }

    [Theory]
    [InlineData("# A heading: with `code`, and more", "a-heading-with-code-and-more")]
    [InlineData("## Twice\n## Twice", "twice-1")]
    public void AnchorsAreGitHubs(string text, string anchor) => Assert.Contains(anchor, Anchors(text));

    private static IEnumerable<string> Links(string text) =>
        Link().Matches(Fenced().Replace(text, string.Empty)).Select(m => m.Groups[1].Value)
            .Concat(Source().Matches(text).Select(m => m.Groups[1].Value));

    /// <summary>The anchors of a document's headings, by GitHub's rule.</summary>
    private static HashSet<string> Anchors(string text)
    {
        Dictionary<string, int> seen = [];
        HashSet<string> anchors = [.. Id().Matches(text).Select(m => m.Groups[1].Value)];
        foreach (Match heading in Heading().Matches(Fenced().Replace(text, string.Empty)))
        {
            string words = new([.. heading.Groups[1].Value.Trim().ToLowerInvariant().Where(c => char.IsLetterOrDigit(c) || c is ' ' or '-' or '_')]);
            string anchor = words.Replace(' ', '-');
            int times = seen[anchor] = seen.GetValueOrDefault(anchor, -1) + 1;
            _ = anchors.Add(times == 0 ? anchor : $"{anchor}-{times}");
        }

        return anchors;
    }

    [GeneratedRegex(@"\]\(([^)\s]+)(?:\s+""[^""]*"")?\)")]
    private static partial Regex Link();

    [GeneratedRegex("<(?:img|source)[^>]*? (?:src|srcset)=\"([^\"]+)\"")]
    private static partial Regex Source();

    [GeneratedRegex("^```.*?^```", RegexOptions.Singleline | RegexOptions.Multiline)]
    private static partial Regex Fenced();

    [GeneratedRegex("^#+ (.*)$", RegexOptions.Multiline)]
    private static partial Regex Heading();

    [GeneratedRegex("<a (?:id|name)=\"([^\"]+)\"")]
    private static partial Regex Id();
}
