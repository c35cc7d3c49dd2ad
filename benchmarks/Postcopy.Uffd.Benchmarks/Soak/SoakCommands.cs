using System.CommandLine;

namespace Postcopy.Uffd.Benchmarks.Soak;

/// <summary>The command line of the soak, and of the process it starts.</summary>
internal static class SoakCommands
{
    internal static Command Build()
    {
        Option<double> minutes = Minutes();
        Option<int> seed = Seed();
        Option<long> faults = new("--faults") { HelpName = "N", Description = "Fails with fewer", DefaultValueFactory = _ => 10_000_000 };
        Option<FileInfo?> json = new("--json") { HelpName = "FILE", Description = "Writes the result as JSON" };
        Option<DirectoryInfo?> save = new("--save") { HelpName = "DIR", Description = "Keeps the result as DIR/<cpu>/soak.json" };
        Command command = new("soak", "Faults, discards, recoveries and migrations without pause, every page checked, a hang ended and reported") { minutes, faults, seed, json, save };
        command.SetAction(parsed => Soaking.Run(parsed.GetValue(minutes), parsed.GetValue(faults), parsed.GetValue(seed), parsed.GetValue(json), parsed.GetValue(save)));
        return command;
    }

    internal static Command BuildWorker()
    {
        Option<double> minutes = Minutes();
        Option<int> seed = Seed();
        Command command = new(SoakWorker.CommandName, "The soak's own process") { minutes, seed };
        command.Hidden = true;
        command.SetAction(parsed => SoakWorker.Run(TimeSpan.FromMinutes(parsed.GetValue(minutes)), parsed.GetValue(seed)));
        return command;
    }

    private static Option<int> Seed() => new("--seed") { HelpName = "N", Description = "Decides rounds and orders", DefaultValueFactory = _ => 1 };

    private static Option<double> Minutes()
    {
        Option<double> minutes = new("--minutes") { HelpName = "N", Description = "How long", DefaultValueFactory = _ => 10 };
        minutes.Validators.Add(result =>
        {
            if (result.GetValueOrDefault<double>() is not (> 0 and <= 100_000))
            {
                result.AddError("--minutes: give more than 0 and at most 100000, such as 0.5 or 60.");
            }
        });
        return minutes;
    }
}
