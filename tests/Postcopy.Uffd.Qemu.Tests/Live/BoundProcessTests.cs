using System.Diagnostics;

namespace Postcopy.Uffd.Qemu.Tests.Live;

public sealed class BoundProcessTests
{
    private const int Limit = 30_000;
    private static int s_next;

    [Fact(Timeout = Limit)]
    public async Task ItEndsWhenItIsDisposed()
    {
        string seconds = Seconds();
        BoundProcess sleeping = BoundProcess.Start($"sleep {seconds}", "/");
        await RunsAsync(seconds, true);
        sleeping.Dispose();
        await RunsAsync(seconds, false);
    }

    /// <summary>Killed, this process can clean nothing up: the end of its pipe must be enough.</summary>
    [Fact(Timeout = Limit)]
    public async Task ItDiesWithTheProcessThatStartedIt()
    {
        string seconds = Seconds();

        // The outer one stands for the runner: it holds the pipe of the inner one, and is killed.
        BoundProcess runner = BoundProcess.Start($"sh {WriteScript(seconds)}", "/");
        await RunsAsync(seconds, true);
        runner.Dispose();
        await RunsAsync(seconds, false);
    }

    [Fact(Timeout = Limit)]
    public async Task ItsOwnEndIsSeenAndWhatItSaid()
    {
        using BoundProcess failing = BoundProcess.Start("ls /nowhere/at/all", "/");
        await Incoming.Migration.Until(() => failing.HasExited);
        Assert.Contains("/nowhere/at/all", failing.Errors, StringComparison.Ordinal);
    }

    /// <summary>Starts the program as <see cref="BoundProcess"/> does, and then sleeps with the pipe's other end open.</summary>
    private static string WriteScript(string seconds)
    {
        string path = Path.Combine(Directory.CreateTempSubdirectory("postcopy-test-").FullName, "runner");
        File.WriteAllText(path, $"mkfifo {path}.pipe\n/bin/sh -c '{BoundProcess.Script}' sh sleep {seconds} < {path}.pipe &\nexec 9> {path}.pipe\nexec sleep 86400\n");
        return path;
    }

    private static string Seconds() => $"{100_000 + Environment.ProcessId}.{Interlocked.Increment(ref s_next)}";

    private static async Task RunsAsync(string seconds, bool expected) =>
        await Incoming.Migration.Until(() => IsRunning(seconds) == expected);

    private static bool IsRunning(string seconds) => Process.GetProcessesByName("sleep").Any(p => CommandLine(p.Id) == $"sleep\0{seconds}\0");

    private static string CommandLine(int process)
    {
        try
        {
            return File.ReadAllText($"/proc/{process}/cmdline");
        }
        catch (IOException)
        {
            return "";
        }
    }
}
