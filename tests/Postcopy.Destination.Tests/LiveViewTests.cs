using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;
using System.Text.RegularExpressions;

namespace Postcopy.Destination.Tests;

/// <summary>What appears on a terminal, and what in a pipe. The terminal is script(1)'s.</summary>
public sealed partial class LiveViewTests
{
    private const int Limit = 60_000;
    private const int KillSignal = 9;
    private const int StopSignal = 19;
    private const string Script = "/usr/bin/script";
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(40);

    [Fact(Timeout = Limit)]
    public async Task EightyColumnsShowBarRateTimeToGoLanesStateAndLastError()
    {
        string raw = await OnTerminalAsync(80, 24, "TERM=xterm-256color", "--memory 128M --vcpus 3 --bandwidth 8M");
        string[] lines = Lines(raw);
        Assert.All(lines, line => Assert.True(line.Length <= 80, $"{line.Length} columns: {line}"));
        Assert.Contains(lines, l => BarLine().IsMatch(l));
        Assert.Contains(lines, l => RateLine().IsMatch(l));
        foreach (string lane in (string[])["all at once", "vCPU 0", "vCPU 1", "vCPU 2"])
        {
            Assert.Contains(lines, l => l.StartsWith(lane + " ", StringComparison.Ordinal) && l.TrimEnd().EndsWith(" %", StringComparison.Ordinal));
        }

        Assert.Contains(lines, l => l.TrimEnd() == "last error none");
        Assert.Contains(lines, l => l.StartsWith("content: all 32800 pages are right", StringComparison.Ordinal));
        Assert.Contains("\e[38;5;", raw, StringComparison.Ordinal);
    }

    [Fact(Timeout = Limit)]
    public async Task FramesAreDrawnOverEachOtherAndTheScreenIsNeverCleared()
    {
        string raw = await OnTerminalAsync(80, 24, "TERM=xterm-256color", "--memory 32M --vcpus 2 --bandwidth 8M");
        Assert.DoesNotContain("\e[2J", raw, StringComparison.Ordinal);
        Assert.DoesNotContain("\e[H", raw, StringComparison.Ordinal);
        Assert.DoesNotContain("\e[?1049h", raw, StringComparison.Ordinal);
        Assert.Matches(@"\e\[\d+A", raw);

        // A line is erased only to take the view away at the end: what is erased and drawn again flickers.
        int erased = raw.IndexOf("\e[2K", StringComparison.Ordinal);
        Assert.DoesNotContain("last error", erased < 0 ? string.Empty : raw[erased..], StringComparison.Ordinal);
        Assert.True(raw.LastIndexOf("\e[?25h", StringComparison.Ordinal) > raw.LastIndexOf("\e[?25l", StringComparison.Ordinal), "the cursor stays hidden");
    }

    [Fact(Timeout = Limit)]
    public async Task NoColorHasNoColoursAndKeepsTheView()
    {
        string raw = await OnTerminalAsync(80, 24, "TERM=xterm-256color NO_COLOR=1", "--memory 32M --vcpus 0 --bandwidth 14M");
        Assert.DoesNotMatch(@"\e\[[0-9;]*m", raw);
        Assert.Contains(Lines(raw), l => BarLine().IsMatch(l));
    }

    [Fact(Timeout = Limit)]
    public async Task ASmallTerminalShowsWhatFits()
    {
        string raw = await OnTerminalAsync(40, 12, "TERM=xterm", "--memory 64M --vcpus 64 --bandwidth 8M");
        string[] lines = Lines(raw);
        Assert.All(lines, line => Assert.True(line.Length <= 40, $"{line.Length} columns: {line}"));
        Assert.Contains(lines, l => l.StartsWith("vCPU 2 ", StringComparison.Ordinal));
        Assert.Contains(lines, l => l.StartsWith("61 more ", StringComparison.Ordinal));
        Assert.DoesNotContain(lines, l => l.StartsWith("vCPU 3 ", StringComparison.Ordinal));
    }

    [Fact(Timeout = Limit)]
    public async Task ATerminalThatCannotMoveItsCursorGetsPlainLines()
    {
        string raw = await OnTerminalAsync(80, 24, "TERM=dumb", "--memory 32M --vcpus 0 --bandwidth 14M");
        Assert.DoesNotContain("\e[", raw, StringComparison.Ordinal);
        Assert.Contains(Lines(raw), l => PlainLine().IsMatch(l));
    }

    [Fact(Timeout = Limit)]
    public async Task APipeGetsPlainLinesAndNoEscapeCode()
    {
        (int exit, string output, string error) = await SampleProcess.RunAsync("--memory", "32M", "--vcpus", "0", "--bandwidth", "14M");
        Assert.True(exit == 0, error);
        Assert.DoesNotContain('\e', output + error);
        Assert.Contains(error.Split('\n'), l => PlainLine().IsMatch(l));
    }

    [Fact(Timeout = Limit)]
    public async Task TheLastErrorIsShown()
    {
        // Its source is stopped in the middle, and a page that stays away for 5 s raises an alarm.
        string raw = await OnTerminalAsync(80, 24, "TERM=xterm", "--memory 256M --vcpus 1 --bandwidth 1M --timeout 30", stopSource: true);
        Assert.Contains(Lines(raw), l => LastErrorLine().IsMatch(l));
        Assert.All(Lines(raw), line => Assert.True(line.Length <= 80, $"{line.Length} columns: {line}"));
    }

    private static async Task<string> OnTerminalAsync(int columns, int rows, string environment, string options, bool stopSource = false)
    {
        Assert.SkipUnless(File.Exists(Script), $"Needs {Script}: apt-get install bsdutils.");
        string folder = Directory.CreateTempSubdirectory("postcopy-live-").FullName;
        try
        {
            string record = Path.Combine(folder, "terminal");
            string command = string.Create(CultureInfo.InvariantCulture,
                $"stty cols {columns} rows {rows}; env -u GITHUB_ACTIONS -u NO_COLOR {environment} '{SampleProcess.Program}' {options} --report-file '{folder}/report'");
            using SampleProcess sample = SampleProcess.Start(Script, ["--quiet", "--flush", "--return", "--command", command, record], temporary: folder);
            if (stopSource)
            {
                await StopSourceAsync(folder, record);
            }

            int exit = await sample.ExitAsync(s_patience);
            string raw = await File.ReadAllTextAsync(record);
            Assert.True(stopSource || exit == 0, raw);
            return raw;
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    // The source is the process whose socket lies in this test's own folder.
    private static async Task StopSourceAsync(string folder, string record)
    {
        await ShownAsync(record, "switched to postcopy");
        int source = Directory.GetDirectories("/proc").Select(Path.GetFileName).Where(n => int.TryParse(n, out _)).Select(n => int.Parse(n!, CultureInfo.InvariantCulture))
            .Single(p => CommandLineOf(p) is { } line && line.Contains("embedded-source", StringComparison.Ordinal) && line.Contains(folder, StringComparison.Ordinal));
        Assert.Equal(0, Kill(source, StopSignal));
        await ShownAsync(record, " s ago: ");
        Assert.Equal(0, Kill(source, KillSignal));
    }

    private static async Task ShownAsync(string record, string text)
    {
        long start = Stopwatch.GetTimestamp();
        while (!File.Exists(record) || !(await File.ReadAllTextAsync(record)).Contains(text, StringComparison.Ordinal))
        {
            Assert.True(Stopwatch.GetElapsedTime(start) < s_patience, $"'{text}' did not come: {(File.Exists(record) ? await File.ReadAllTextAsync(record) : "nothing came")}");
            await Task.Delay(10);
        }
    }

    private static string? CommandLineOf(int process)
    {
        try
        {
            return File.ReadAllText($"/proc/{process}/cmdline");
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }

    [LibraryImport("libc", EntryPoint = "kill", SetLastError = true)]
    private static partial int Kill(int process, int signal);

    // Carriage returns and cursor movements begin a line anew, as on the screen.
    private static string[] Lines(string raw) => [.. Escape().Replace(ScriptHead().Replace(raw, string.Empty), string.Empty).Split('\r', '\n')];

    [GeneratedRegex(@"\e(\[[0-9;?]*[A-Za-z]|[=>])")]
    private static partial Regex Escape();

    [GeneratedRegex(@"^Script (started|done).*$", RegexOptions.Multiline)]
    private static partial Regex ScriptHead();

    [GeneratedRegex(@"^running +\[[^\]]+\] +\d+%  [\d.]+ [KM]iB of [\d.]+ MiB")]
    private static partial Regex BarLine();

    [GeneratedRegex(@"^\d+ of 32800 pages, [\d.]+ [KM]iB/s, \d+ faults, [0-3]/3 blocked, ETA \d+ s")]
    private static partial Regex RateLine();

    [GeneratedRegex(@"^running: \d+% of 32\.\d MiB, \d+ of 8224 pages, [\d.]+ [KM]iB/s, \d+ faults, 0/0 blocked, ETA ")]
    private static partial Regex PlainLine();

    [GeneratedRegex(@"^last error \d+ s ago: \S")]
    private static partial Regex LastErrorLine();
}
