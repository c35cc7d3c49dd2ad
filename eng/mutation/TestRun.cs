using System.Diagnostics;
using Microsoft.CodeAnalysis;

namespace Postcopy.Mutation;

/// <summary>How the tests answered.</summary>
internal enum Verdict
{
    /// <summary>All passed.</summary>
    Passed,

    /// <summary>A test failed.</summary>
    Failed,

    /// <summary>They did not end in time, and were killed.</summary>
    Hung,

    /// <summary>The process died.</summary>
    Crashed,

    /// <summary>No test ran: the selection fits none, or all were skipped.</summary>
    Nothing,
}

/// <summary>What a run of tests said.</summary>
/// <param name="Verdict">In one word.</param>
/// <param name="By">The first test that failed, if one did.</param>
/// <param name="Seconds">How long it took.</param>
internal sealed record TestAnswer(Verdict Verdict, string By, double Seconds);

/// <summary>A copy of a test project's output, whose product assembly is exchanged from mutant to mutant.</summary>
internal sealed class TestRun : IDisposable
{
    private readonly string _folder;
    private readonly string _temporary;
    private readonly string _program;
    private Product? _changed;

    internal TestRun(string root, string project)
    {
        string built = Path.Combine(root, "tests", project, "bin", "Debug", "net10.0");
        _program = project;
        if (!File.Exists(Path.Combine(built, $"{project}.dll")))
        {
            throw new MutationException($"{built} has no tests: run 'dotnet build tests/{project}' first.");
        }

        // In the repository, whose documents some tests read; but sockets need short names, and some tests another user who may go in.
        _folder = Directory.CreateDirectory(Path.Combine(root, "eng", "mutation", "obj", $"{project}-{Environment.ProcessId}")).FullName;
        _temporary = Directory.CreateTempSubdirectory("postcopy-mutation-").FullName;
        File.SetUnixFileMode(_temporary, File.GetUnixFileMode(_temporary) | UnixFileMode.OtherRead | UnixFileMode.OtherExecute | UnixFileMode.GroupRead | UnixFileMode.GroupExecute);
        Copy(new DirectoryInfo(built), _folder);
    }

    /// <summary>Where the product's assembly is to be written.</summary>
    internal string Folder => _folder;

    /// <summary>Puts a mutant in the product's place; what was changed before is as it was again.</summary>
    /// <returns>Null, or why it does not compile.</returns>
    internal string? Exchange(Product product, SyntaxTree file, string text)
    {
        if (_changed is not null && _changed != product)
        {
            _ = _changed.Emit(_folder);
        }

        _changed = product;
        return product.Emit(_folder, file, text);
    }

    /// <summary>Runs the tests of some classes, up to the first that fails.</summary>
    /// <param name="classes">Names of classes, or Class.Method.</param>
    /// <param name="limit">When they count as hanging.</param>
    internal TestAnswer Run(IEnumerable<string> classes, TimeSpan limit)
    {
        ProcessStartInfo start = new(Path.Combine(_folder, _program))
        {
            WorkingDirectory = _folder,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            RedirectStandardInput = true,
            ArgumentList = { "--stop-on-fail", "on", "--no-progress", "--no-ansi" },
        };

        // Their turns (OneAssemblyAtATime) are for suites that measure each other's time; a mutant's tests run alone here.
        start.Environment["TMPDIR"] = _temporary;
        start.Environment["DOTNET_DbgEnableMiniDump"] = "0";
        foreach (string name in classes)
        {
            start.ArgumentList.Add("--filter-method");
            start.ArgumentList.Add(name.Contains('.', StringComparison.Ordinal) ? $"*.{name}" : $"*.{name}.*");
        }

        Stopwatch clock = Stopwatch.StartNew();
        using Process process = Process.Start(start)!;
        process.StandardInput.Close();
        Task<string> output = process.StandardOutput.ReadToEndAsync();
        Task<string> errors = process.StandardError.ReadToEndAsync();
        bool ended = process.WaitForExit(limit);
        if (!ended)
        {
            process.Kill(entireProcessTree: true);
            process.WaitForExit();
        }

        // Children of a killed test may still hold the pipe: what they say is not waited for.
        string text = output.Wait(TimeSpan.FromSeconds(5)) ? output.Result : string.Empty;
        text += errors.Wait(TimeSpan.FromSeconds(1)) ? errors.Result : string.Empty;
        return new TestAnswer(ended ? Judge(process.ExitCode) : Verdict.Hung, FirstFailure(text), clock.Elapsed.TotalSeconds);
    }

    public void Dispose()
    {
        Directory.Delete(_folder, recursive: true);
        Directory.Delete(_temporary, recursive: true);
    }

    // Exit codes of Microsoft.Testing.Platform: 2 a test failed, 3 aborted, 8 no test ran, 13 stopped at the first failure.
    private static Verdict Judge(int exitCode) => exitCode switch
    {
        0 => Verdict.Passed,
        2 or 13 => Verdict.Failed,
        8 => Verdict.Nothing,
        5 => throw new MutationException("The test program does not know an argument of this check."),
        _ => Verdict.Crashed,
    };

    private static string FirstFailure(string text)
    {
        string? line = text.Split('\n').FirstOrDefault(l => l.StartsWith("failed ", StringComparison.Ordinal) && !l.StartsWith("failed [", StringComparison.Ordinal));
        if (line is null)
        {
            return string.Empty;
        }

        // failed Namespace.Class.Method(arguments) (1s 234ms)
        string name = line["failed ".Length..].Split([' ', '('], 2)[0];
        string[] parts = name.Split('.');
        return parts.Length < 2 ? name : $"{parts[^2]}.{parts[^1]}";
    }

    private static void Copy(DirectoryInfo from, string to)
    {
        foreach (FileInfo file in from.EnumerateFiles())
        {
            _ = file.CopyTo(Path.Combine(to, file.Name));
        }

        foreach (DirectoryInfo directory in from.EnumerateDirectories())
        {
            Copy(directory, Directory.CreateDirectory(Path.Combine(to, directory.Name)).FullName);
        }
    }
}
