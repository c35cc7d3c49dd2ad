using System.CommandLine;
using System.CommandLine.Parsing;
using Postcopy.Uffd.Benchmarks.Compare;
using Postcopy.Uffd.Benchmarks.Curves;
using Postcopy.Uffd.Benchmarks.Migrations;
using Postcopy.Uffd.Benchmarks.Rows;
using Postcopy.Uffd.Benchmarks.Soak;

namespace Postcopy.Uffd.Benchmarks;

/// <summary>The command line: the latency lab and the endurance run by name, single operations without a command.</summary>
internal static class LabCommands
{
    internal static RootCommand Build()
    {
        RootCommand root = new(
            "Measures Postcopy.Uffd. Without a command: BenchmarkDotNet on single operations (its options are passed on).")
        {
            CompareCommand(),
            CurveCommand("growth", "How cost grows with the guest's memory, the threads that fault and the RAM blocks", GrowthCurve.Measure),
            CurveCommand("waiting", "Latency against processor time over the spin limit of the fault thread", WaitingCurve.Measure),
            ReceiveCommand.Build(),
            SoakCommands.Build(),
            SoakCommands.BuildWorker(),
        };
        return root;
    }

    private static Command CompareCommand()
    {
        Option<FileInfo?> json = new("--json") { HelpName = "FILE", Description = "Writes the rows as JSON, one member a row" };
        Option<DirectoryInfo?> save = SaveOption("compare.json, compare.md and machine.json");
        Option<string[]> rows = new("--rows")
        {
            HelpName = "a,b",
            Description = $"Only these rows [all of: {string.Join(", ", AllRows.List.Select(r => r.Name))}]",
            CustomParser = ParseRows,
            DefaultValueFactory = _ => [.. AllRows.List.Select(r => r.Name)],
        };
        Option<int> rounds = new("--rounds")
        {
            HelpName = "N",
            Description = "Rounds a row, in each of which both sides and the baseline again take turns",
            DefaultValueFactory = _ => 7,
        };
        rounds.Validators.Add(result =>
        {
            if (result.GetValueOrDefault<int>() is < 1 or > 1000)
            {
                result.AddError("--rounds: give 1 to 1000; 5 or more for a result that is to be published.");
            }
        });
        Option<bool> quick = QuickOption();
        Command command = new("compare", "Measures us against C written the usual way and against QEMU, in alternation") { json, save, rows, rounds, quick };
        command.SetAction(parsed => Comparison.Run(new ComparisonOptions
        {
            Rows = parsed.GetValue(rows)!,
            Rounds = parsed.GetValue(rounds),
            Quick = parsed.GetValue(quick),
            Json = parsed.GetValue(json),
            Save = parsed.GetValue(save),
        }));
        return command;
    }

    private static Command CurveCommand(string name, string description, Func<bool, CurveTable> measure)
    {
        Option<DirectoryInfo?> save = SaveOption($"{name}.json and {name}.md");
        Option<bool> quick = QuickOption();
        Command command = new(name, description) { save, quick };
        command.SetAction(parsed =>
        {
            Machine machine = Machine.Describe();
            Console.WriteLine($"{machine}\n");
            CurveTable table = measure(parsed.GetValue(quick));
            if (parsed.GetValue(save) is { } folder)
            {
                table.Save(folder.FullName, machine);
            }
        });
        return command;
    }

    private static Option<DirectoryInfo?> SaveOption(string files) => new("--save") { HelpName = "DIR", Description = $"Keeps the figures in DIR/<cpu>/: {files}" };

    private static Option<bool> QuickOption() => new("--quick") { Description = "Tiny sizes: shows that everything runs, measures nothing worth keeping" };

    private static string[] ParseRows(ArgumentResult result)
    {
        string[] names = [.. result.Tokens.SelectMany(t => t.Value.Split(',', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries))];
        foreach (string name in names.Where(n => AllRows.List.All(r => r.Name != n)))
        {
            result.AddError($"--rows: there is no row '{name}'; there are {string.Join(", ", AllRows.List.Select(r => r.Name))}.");
        }

        return names;
    }
}
