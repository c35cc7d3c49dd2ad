using System.Diagnostics;
using Microsoft.CodeAnalysis;

namespace Postcopy.Mutation;

/// <summary>Takes the guards of eng/mutation/guards out, one at a time, and sees whether a test or a model notices.</summary>
internal static class GuardCheck
{
    private static readonly TimeSpan s_limit = TimeSpan.FromSeconds(120);

    /// <returns>0: every guard is noticed; 1: one survived, or does not fit the source any more.</returns>
    internal static int Run(string root, string[] arguments)
    {
        List<Guard> all = [.. Directory.EnumerateFiles(Path.Combine(root, "eng/mutation/guards"), "*.txt").Order().SelectMany(Guard.Read)];
        bool quick = arguments.Contains("--quick");
        string[] names = [.. arguments.Where(a => !a.StartsWith("--", StringComparison.Ordinal))];
        if (names.FirstOrDefault(n => all.All(g => g.Name != n)) is { } unknown)
        {
            throw new MutationException($"There is no guard '{unknown}'; there are: {string.Join(", ", all.Select(g => g.Name))}.");
        }

        // Also those that are not run: a guard whose source has changed is found at once.
        List<string> stale = [.. all.Select(g => Stale(root, g)).OfType<string>()];
        List<Guard> chosen = [.. all.Where(g => names.Length > 0 ? names.Contains(g.Name) : !quick || g.IsQuick)];
        List<string> survivors = [];
        using Bench bench = new(root);
        Stopwatch clock = Stopwatch.StartNew();
        foreach (IGrouping<string, string> tests in chosen.SelectMany(g => g.Tests).SelectMany(t => t.Classes, (t, c) => (t.Project, Class: c)).Distinct().GroupBy(t => t.Project, t => t.Class))
        {
            double seconds = bench.RequireGreen(tests.Key, [.. tests]);
            Console.WriteLine($"{tests.Key}: the tests that must notice pass on the unchanged product, {seconds:0} s");
        }

        Console.WriteLine($"{"guard",-34} {"noticed by",-70} {"s",6}");
        foreach (Guard guard in chosen.Where(g => !stale.Any(s => s.StartsWith($"{g.Name}:", StringComparison.Ordinal))).ToList())
        {
            TestAnswer answer;
            try
            {
                answer = Try(root, bench, guard);
            }
            catch (MutationException e)
            {
                stale.Add($"{guard.Name}: {e.Message}");
                continue;
            }

            bool noticed = answer.Verdict is not (Verdict.Passed or Verdict.Nothing);
            if (!noticed)
            {
                survivors.Add($"{guard.Name}: {guard.Why}");
            }

            string by = answer.Verdict switch
            {
                Verdict.Passed => "NOBODY",
                Verdict.Nothing => "NOBODY: no test of the selection ran",
                Verdict.Hung => $"the time limit {answer.By}",
                Verdict.Crashed => $"the death of the process {answer.By}",
                _ => answer.By,
            };
            Console.WriteLine($"{guard.Name,-34} {by,-70} {answer.Seconds,6:0.0}");
        }

        stale.ForEach(s => Console.WriteLine($"does not fit: {s}"));
        survivors.ForEach(s => Console.WriteLine($"survivor: {s}"));
        Console.WriteLine($"{chosen.Count} of {all.Count} guards taken out one at a time, {survivors.Count} survivors, {stale.Count} that do not fit the source; {clock.Elapsed.TotalSeconds:0} s");
        return survivors.Count + stale.Count == 0 ? 0 : 1;
    }

    private static string? Stale(string root, Guard guard)
    {
        string path = Path.Combine(root, guard.File);
        if (!File.Exists(path))
        {
            return $"{guard.Name}: {guard.File} does not exist";
        }

        foreach ((string project, IReadOnlyList<string> classes) in guard.Tests)
        {
            string? unknown = classes.Select(c => c.Split('.')[0]).FirstOrDefault(c =>
                !Directory.EnumerateFiles(Path.Combine(root, "tests", project), $"{c}.cs", SearchOption.AllDirectories).Any());
            if (unknown is not null)
            {
                return $"{guard.Name}: {project} has no tests {unknown}";
            }
        }

        int found = File.ReadAllText(path).Split(guard.Original).Length - 1;
        return found == 1 ? null : $"{guard.Name}: its source is {found} times in {guard.File}; adapt eng/mutation/guards to the change";
    }

    private static TestAnswer Try(string root, Bench bench, Guard guard)
    {
        if (guard.Model.Length > 0)
        {
            TestAnswer model = TryModel(root, guard.Model);
            if (model.Verdict != Verdict.Passed || guard.Tests.Count == 0)
            {
                return model;
            }
        }

        string text = File.ReadAllText(Path.Combine(root, guard.File));
        Product product = bench.Product(guard.Project);
        SyntaxTree file = product.File(guard.File);
        TestAnswer last = new(Verdict.Nothing, string.Empty, 0);
        foreach ((string project, IReadOnlyList<string> classes) in guard.Tests)
        {
            TestRun tests = bench.Tests(project);
            string? error = tests.Exchange(product, file, text.Replace(guard.Original, guard.Replacement, StringComparison.Ordinal));
            if (error is not null)
            {
                throw new MutationException($"{guard.Name} does not compile: {error}");
            }

            last = tests.Run(classes, s_limit);
            if (last.Verdict != Verdict.Passed)
            {
                return last;
            }
        }

        return last;
    }

    /// <summary>A model of tests/models, built with the switch that takes the guard out; it must find an error.</summary>
    private static TestAnswer TryModel(string root, string model)
    {
        string[] parts = model.Split(' ');
        string models = Path.Combine(root, "tests/models");
        if (parts.Length != 2 || !File.Exists(Path.Combine(models, $"{parts[0]}.pml")))
        {
            throw new MutationException($"There is no model for '{model}' in {models}; it is 'NAME SWITCH'.");
        }

        if (!File.ReadAllText(Path.Combine(models, $"{parts[0]}.pml")).Contains(parts[1], StringComparison.Ordinal))
        {
            throw new MutationException($"{parts[0]}.pml knows no switch {parts[1]}.");
        }

        // SPIN writes its verifier into the working folder.
        string folder = Directory.CreateTempSubdirectory("postcopy-model-").FullName;
        try
        {
            Stopwatch clock = Stopwatch.StartNew();
            string said = Shell(folder, $"cp '{models}'/*.h '{models}/{parts[0]}.pml' . && spin -a -D{parts[1]} {parts[0]}.pml && gcc -O1 -w -DSAFETY -DMEMLIM=1500 -DVECTORSZ=4096 -o pan pan.c && ./pan -m1000000");
            return new TestAnswer(
                System.Text.RegularExpressions.Regex.IsMatch(said, "errors: [1-9]") ? Verdict.Failed : Verdict.Passed,
                $"model {model}", clock.Elapsed.TotalSeconds);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private static string Shell(string folder, string command)
    {
        ProcessStartInfo start = new("bash") { ArgumentList = { "-c", command }, WorkingDirectory = folder, RedirectStandardOutput = true };
        using Process run = Process.Start(start)!;
        Task<string> output = run.StandardOutput.ReadToEndAsync();
        if (!run.WaitForExit(s_limit))
        {
            run.Kill(entireProcessTree: true);
        }

        return output.Result;
    }
}
