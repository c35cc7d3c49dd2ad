using System.Text.RegularExpressions;

namespace Postcopy.Docs.Tests;

/// <summary>
/// A block of C# in a document. It is compiled as the body of a program that has the usual usings and the library's
/// namespaces. What a block only uses is declared in a comment before it:
/// <c>&lt;!-- given: GuestMemory memory; PostcopyDestination destination --&gt;</c>.
/// </summary>
public sealed partial record CodeBlock(string Document, int Line, string Given, string Text)
{
    /// <summary>The usings that a project has without writing them, and the library's.</summary>
    public const string Usings = """
        global using System;
        global using System.Collections.Generic;
        global using System.IO;
        global using System.Linq;
        global using System.Net.Http;
        global using System.Threading;
        global using System.Threading.Tasks;
        """;

    /// <summary>All blocks of all documents.</summary>
    public static IEnumerable<CodeBlock> All() =>
        Repository.Documents.SelectMany(document =>
        {
            string text = Repository.Read(document);
            return Fence().Matches(text).Select(m => new CodeBlock(document, text.AsSpan(0, m.Groups["code"].Index).Count('\n') + 1, m.Groups["given"].Value, m.Groups["code"].Value));
        });

    /// <summary>What the compiler gets.</summary>
    public string Program()
    {
        // Declarations of what is given come after the block's own usings, which must be first.
        int body = Using().Match(Text) is { Success: true } usings ? usings.Index + usings.Length : 0;
        string given = string.Concat(Given.Split(';', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries).Select(g => $"{g} = default!;\n"));
        string library = Text.Contains("using Postcopy.Uffd;", StringComparison.Ordinal) ? string.Empty : "using Postcopy.Uffd;\n";
        return $"{library}{Text[..body]}{given}\n#line {Line + Text.AsSpan(0, body).Count('\n')} \"{Document}\"\n{Text[body..]}";
    }

    /// <inheritdoc/>
    public override string ToString() => $"{Document}:{Line}";

    [GeneratedRegex("(?:<!-- given: (?<given>(?:(?!-->).)*?) -->\n)?```(?:csharp|cs|c#)\n(?<code>.*?)```", RegexOptions.Singleline)]
    private static partial Regex Fence();

    [GeneratedRegex(@"\A(?:(?:using [\w.= ]+;)?\n)+")]
    private static partial Regex Using();
}
