using System.Diagnostics;
using System.Text;

namespace Postcopy.Destination.Tests;

/// <summary>The sample as a user runs it: its own process, its output and its exit code, under a watchdog.</summary>
internal sealed class SampleProcess : IDisposable
{
    private readonly Process _process;
    private readonly StringBuilder _error = new();
    private readonly StringBuilder _output = new();

    private SampleProcess(Process process)
    {
        _process = process;
        process.ErrorDataReceived += (_, e) => Append(_error, e.Data);
        process.OutputDataReceived += (_, e) => Append(_output, e.Data);
        process.BeginErrorReadLine();
        process.BeginOutputReadLine();
    }

    internal static string Program { get; } = Path.Combine(AppContext.BaseDirectory, "postcopy-destination");

    internal int Id => _process.Id;

    internal string Error => Text(_error);

    internal string Output => Text(_output);

    internal static SampleProcess Start(params string[] arguments) => Start(Program, arguments);

    internal static SampleProcess Start(string program, IEnumerable<string> arguments, string? temporary = null)
    {
        ProcessStartInfo start = new(program, arguments) { RedirectStandardError = true, RedirectStandardOutput = true, RedirectStandardInput = true };
        if (temporary is not null)
        {
            start.Environment["TMPDIR"] = temporary;
        }

        return new SampleProcess(Process.Start(start)!);
    }

    /// <summary>Runs to the end.</summary>
    internal static async Task<(int Exit, string Output, string Error)> RunAsync(params string[] arguments)
    {
        using SampleProcess sample = Start(arguments);
        int exit = await sample.ExitAsync(TimeSpan.FromSeconds(90));
        return (exit, sample.Output, sample.Error);
    }

    internal async Task<int> ExitAsync(TimeSpan limit)
    {
        using CancellationTokenSource patience = new(limit);
        try
        {
            await _process.WaitForExitAsync(patience.Token);
        }
        catch (OperationCanceledException)
        {
            _process.Kill(entireProcessTree: true);
            throw new TimeoutException($"{Path.GetFileName(_process.StartInfo.FileName)} did not end within {limit.TotalSeconds} s; it said: {Error}{Output}");
        }

        return _process.ExitCode;
    }

    /// <summary>Waits until a line with the text is there.</summary>
    internal async Task WaitForAsync(string text, TimeSpan limit)
    {
        long start = Stopwatch.GetTimestamp();
        while (!Error.Contains(text, StringComparison.Ordinal))
        {
            if (Stopwatch.GetElapsedTime(start) > limit || _process.HasExited)
            {
                throw new TimeoutException($"'{text}' did not come; it said: {Error}{Output}");
            }

            await Task.Delay(20);
        }
    }

    public void Dispose()
    {
        if (!_process.HasExited)
        {
            _process.Kill(entireProcessTree: true);
            _process.WaitForExit();
        }

        _process.Dispose();
    }

    private static void Append(StringBuilder text, string? line)
    {
        if (line is not null)
        {
            lock (text)
            {
                _ = text.AppendLine(line);
            }
        }
    }

    private static string Text(StringBuilder text)
    {
        lock (text)
        {
            return text.ToString();
        }
    }
}
