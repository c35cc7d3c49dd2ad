using System.Diagnostics;
using System.Reflection;
using System.Text.Json;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;
using Microsoft.CodeAnalysis.Diagnostics;
using Microsoft.CodeAnalysis.Emit;
using Microsoft.CodeAnalysis.Text;

namespace Postcopy.Mutation;

/// <summary>
/// One product assembly, compiled in memory with the arguments of the ordinary build: a mutant costs a second instead of a
/// build, and no source file is ever changed.
/// </summary>
internal sealed class Product
{
    private readonly CSharpCompilation _original;
    private readonly CSharpParseOptions _parse;
    private readonly string _root;

    private Product(string name, string root, CSharpCompilation original, CSharpParseOptions parse)
    {
        Name = name;
        _root = root;
        _original = original;
        _parse = parse;
    }

    internal string Name { get; }

    /// <summary>Asks MSBuild how the project is compiled (Debug: the seam of the interleaving tests is in it), and does the same.</summary>
    internal static Product Load(string root, string name)
    {
        string directory = Path.Combine(root, "src", name);
        CSharpCommandLineArguments arguments = CSharpCommandLineParser.Default.Parse(
            CompilerArguments(Path.Combine(directory, $"{name}.csproj")), directory, Path.GetDirectoryName(typeof(object).Assembly.Location));
        CSharpParseOptions parse = arguments.ParseOptions;
        CSharpCompilation compilation = CSharpCompilation.Create(
            name,
            arguments.SourceFiles.Select(f => CSharpSyntaxTree.ParseText(Read(f.Path), parse, f.Path)),
            arguments.MetadataReferences.Select(r => MetadataReference.CreateFromFile(r.Reference, r.Properties)),
            arguments.CompilationOptions.WithSpecificDiagnosticOptions([]).WithGeneralDiagnosticOption(ReportDiagnostic.Default));

        Loader loader = new();
        IEnumerable<ISourceGenerator> generators = arguments.AnalyzerReferences
            .SelectMany(r => new AnalyzerFileReference(Path.GetFullPath(r.FilePath, directory), loader).GetGenerators(LanguageNames.CSharp));
        _ = CSharpGeneratorDriver.Create(generators, parseOptions: parse)
            .RunGeneratorsAndUpdateCompilation(compilation, out Compilation whole, out _);
        return new Product(name, root, (CSharpCompilation)whole, parse);
    }

    /// <summary>The source files below a folder of the project, as paths from the repository's root.</summary>
    internal IEnumerable<SyntaxTree> Files(string folder) => _original.SyntaxTrees
        .Where(t => t.FilePath.StartsWith(Path.Combine(_root, "src", Name, folder) + "/", StringComparison.Ordinal));

    internal SyntaxTree File(string path) =>
        _original.SyntaxTrees.FirstOrDefault(t => t.FilePath == Path.Combine(_root, path))
        ?? throw new MutationException($"{path} is no source file of {Name}.");

    internal SemanticModel Model(SyntaxTree tree) => _original.GetSemanticModel(tree);

    /// <summary>Writes the assembly with one file replaced; null, or why it does not compile.</summary>
    internal string? Emit(string into, SyntaxTree? changed = null, string? text = null)
    {
        CSharpCompilation compilation = changed is null
            ? _original
            : _original.ReplaceSyntaxTree(changed, CSharpSyntaxTree.ParseText(SourceText.From(text!, System.Text.Encoding.UTF8), _parse, changed.FilePath));
        using FileStream assembly = System.IO.File.Create(Path.Combine(into, $"{Name}.dll"));
        using FileStream symbols = System.IO.File.Create(Path.Combine(into, $"{Name}.pdb"));
        EmitResult result = compilation.Emit(assembly, symbols, options: new EmitOptions(debugInformationFormat: DebugInformationFormat.PortablePdb));
        return result.Success
            ? null
            : result.Diagnostics.First(d => d.Severity == DiagnosticSeverity.Error).ToString();
    }

    private static SourceText Read(string path)
    {
        using FileStream file = System.IO.File.OpenRead(path);
        return SourceText.From(file, System.Text.Encoding.UTF8, canBeEmbedded: true);
    }

    private static string[] CompilerArguments(string project)
    {
        ProcessStartInfo start = new("dotnet")
        {
            RedirectStandardOutput = true,
            ArgumentList =
            {
                "msbuild", project, "-nologo", "-restore", "-t:Compile", "-p:Configuration=Debug", "-p:TargetFramework=net10.0", "-p:BuildProjectReferences=false",
                "-p:SkipCompilerExecution=true", "-p:ProvideCommandLineArgs=true", "-getItem:CscCommandLineArgs",

                // An output that never exists: MSBuild tells nothing of a target that it finds up to date.
                "-p:NonExistentFile=/nonexistent/output",
            },
        };
        using Process msbuild = Process.Start(start)!;
        string output = msbuild.StandardOutput.ReadToEnd();
        msbuild.WaitForExit();
        if (msbuild.ExitCode != 0)
        {
            throw new MutationException($"MSBuild does not tell how {project} is compiled: {output}");
        }

        using JsonDocument json = JsonDocument.Parse(output);
        return [.. json.RootElement.GetProperty("Items").GetProperty("CscCommandLineArgs").EnumerateArray().Select(a => a.GetProperty("Identity").GetString()!)];
    }

    private sealed class Loader : IAnalyzerAssemblyLoader
    {
        public void AddDependencyLocation(string fullPath)
        {
        }

        public Assembly LoadFromPath(string fullPath) => Assembly.LoadFrom(fullPath);
    }
}

/// <summary>The check itself cannot go on: the message says what to do.</summary>
internal sealed class MutationException(string message) : Exception(message);
