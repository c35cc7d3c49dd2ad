using System.Diagnostics;
using System.Globalization;
using System.Text.Json;
using Postcopy.Uffd.Benchmarks.Compare;

namespace Postcopy.Uffd.Benchmarks.Soak;

/// <summary>Starts the process that faults, shows how it goes, ends it when it stands still, and keeps the result.</summary>
internal static class Soaking
{
    /// <summary>Progress is told every 5 s and no round rests; a busy machine gets twelve times that.</summary>
    private static readonly TimeSpan s_hang = TimeSpan.FromSeconds(60);
    private const int HangLines = 12;

    internal static int Run(double minutes, long faults, int seed, FileInfo? json, DirectoryInfo? save)
    {
        Machine machine = Machine.Describe();
        Console.WriteLine(machine);
        using Process worker = StartWorker(minutes, seed);
        Task<string> errors = worker.StandardError.ReadToEndAsync();
        SoakTotals totals = new();
        string? hang = null;
        int still = 0;
        while (true)
        {
            Task<string?> line = worker.StandardOutput.ReadLineAsync();
            if (!line.Wait(s_hang))
            {
                hang = $"HUNG: nothing was heard for {s_hang.TotalSeconds:0} s after: {totals}";
            }
            else if (line.Result is { } text)
            {
                SoakTotals now = JsonSerializer.Deserialize<SoakTotals>(text)!;
                still = now.Faults == totals.Faults ? still + 1 : 0;
                if (still == HangLines)
                {
                    hang = $"HUNG: no fault was served for {s_hang.TotalSeconds:0} s: {totals}";
                }

                totals = now;
                Console.WriteLine(totals);
            }
            else
            {
                break;
            }

            if (hang is not null)
            {
                worker.Kill();
                break;
            }
        }

        worker.WaitForExit();
        string verdict = hang ?? (worker.ExitCode != 0 ? $"FAILED: {errors.Result.Trim()}"
            : !totals.IsRight ? "WRONG: see pagesWrong and stuckFaults"
            : totals.Faults < faults ? string.Create(CultureInfo.InvariantCulture, $"SHORT: {totals.Faults:N0} of {faults:N0} faults; give more minutes")
            : "passed");
        Console.WriteLine(verdict);
        SoakResult result = new()
        {
            Verdict = verdict,
            Command = string.Create(CultureInfo.InvariantCulture, $"soak --minutes {minutes} --faults {faults} --seed {seed}"),
            Totals = totals,
            Machine = machine,
        };
        if (json is not null)
        {
            ResultFile.WriteJson(json.FullName, result);
        }

        if (save is not null)
        {
            ResultFile.WriteJson(Path.Combine(Directory.CreateDirectory(Path.Combine(save.FullName, machine.Folder)).FullName, "soak.json"), result);
        }

        return verdict == "passed" ? 0 : 1;
    }

    private static Process StartWorker(double minutes, int seed)
    {
        string self = Environment.ProcessPath!;
        ProcessStartInfo start = new(self) { RedirectStandardOutput = true, RedirectStandardError = true };
        if (Path.GetFileNameWithoutExtension(self) == "dotnet")
        {
            start.ArgumentList.Add(typeof(Soaking).Assembly.Location);
        }

        foreach (string argument in (string[])[SoakWorker.CommandName, "--minutes", minutes.ToString(CultureInfo.InvariantCulture), "--seed", seed.ToString(CultureInfo.InvariantCulture)])
        {
            start.ArgumentList.Add(argument);
        }

        return Process.Start(start)!;
    }
}
