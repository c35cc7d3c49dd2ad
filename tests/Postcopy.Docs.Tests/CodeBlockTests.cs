using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;

namespace Postcopy.Docs.Tests;

public sealed class CodeBlockTests
{
    private static readonly CSharpParseOptions s_parse = new(LanguageVersion.CSharp14);

    // What this test runs with: the runtime's own assemblies and ours.
    private static readonly Lazy<MetadataReference[]> s_references = new(() =>
        [.. ((string)AppContext.GetData("TRUSTED_PLATFORM_ASSEMBLIES")!).Split(':').Select(path => MetadataReference.CreateFromFile(path))]);

    public static TheoryData<string, int> Blocks
    {
        get
        {
            TheoryData<string, int> data = [];
            foreach (CodeBlock block in CodeBlock.All())
            {
                data.Add(block.Document, block.Line);
            }

            return data;
        }
    }

    [Theory]
    [MemberData(nameof(Blocks))]
    public void ItCompiles(string document, int line)
    {
        CodeBlock block = CodeBlock.All().Single(b => b.Document == document && b.Line == line);
        Assert.Empty(Errors(block));
    }

    [Theory]
    [InlineData("PostcopyDestination destination = new(new PostcopyOptions { Blocktimes = null });", "Blocktimes")]
    [InlineData("memory.Length.ToString();", "memory")]
    [InlineData("int x = \"text\";", "int")]
    public void ABlockThatIsWrongDoesNot(string text, string said) =>
        Assert.Contains(said, Assert.Single(Errors(new CodeBlock("here.md", 7, string.Empty, text))), StringComparison.Ordinal);

    [Fact]
    public void WhatABlockIsGivenNeedNotBeDeclared() =>
        Assert.Empty(Errors(new CodeBlock("here.md", 1, "GuestMemory memory; RamBlock ram", "Console.WriteLine(memory.Length + ram.UsedLength);\n")));

    private static string[] Errors(CodeBlock block)
    {
        CSharpCompilation compilation = CSharpCompilation.Create(
            "block",
            [CSharpSyntaxTree.ParseText(CodeBlock.Usings, s_parse), CSharpSyntaxTree.ParseText(block.Program(), s_parse)],
            s_references.Value,
            new CSharpCompilationOptions(OutputKind.ConsoleApplication, nullableContextOptions: NullableContextOptions.Enable, allowUnsafe: true));
        return [.. compilation.GetDiagnostics().Where(d => d.Severity == DiagnosticSeverity.Error).Select(d => d.ToString())];
    }
}
