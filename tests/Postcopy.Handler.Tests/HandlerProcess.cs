using System.Diagnostics;
using System.Text;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Handler.Tests;

/// <summary>The sample as a user runs it, in a process of its own.</summary>
internal sealed class HandlerProcess : IDisposable
{
    private readonly Process _process;
    private readonly StringBuilder _said = new();

    private HandlerProcess(Process process)
    {
        _process = process;
        process.OutputDataReceived += (_, e) => Note(e.Data);
        process.ErrorDataReceived += (_, e) => Note(e.Data);
        process.BeginOutputReadLine();
        process.BeginErrorReadLine();
    }

    internal static string Program { get; } = Path.Combine(AppContext.BaseDirectory, "postcopy-handler");

    internal int Id => _process.Id;

    internal bool HasExited => _process.HasExited;

    internal string Said
    {
        get
        {
            lock (_said)
            {
                return _said.ToString();
            }
        }
    }

    internal static HandlerProcess Start(params string[] arguments) => StartProgram(Program, arguments);

    internal static HandlerProcess StartProgram(string program, params string[] arguments) =>
        new(Process.Start(new ProcessStartInfo(program, arguments) { RedirectStandardOutput = true, RedirectStandardError = true, RedirectStandardInput = true })!);

    /// <summary>SIGKILL, and waits until it is gone.</summary>
    internal void Kill()
    {
        _process.Kill();
        _process.WaitForExit();
    }

    internal void WaitFor(string text) => Assert.True(
        Deadline.Reached(() => Said.Contains(text, StringComparison.Ordinal) || _process.HasExited, Deadline.Default) && Said.Contains(text, StringComparison.Ordinal),
        $"'{text}' did not come; it said: {Said}");

    /// <summary>The exit code; fails the test when it does not end in time.</summary>
    internal int WaitForExit()
    {
        if (!_process.WaitForExit(TimeSpan.FromSeconds(30)))
        {
            _process.Kill();
            Assert.Fail($"The handler did not end; it said: {Said}");
        }

        _process.WaitForExit();
        return _process.ExitCode;
    }

    public void Dispose()
    {
        if (!_process.HasExited)
        {
            _process.Kill();
            _process.WaitForExit();
        }

        _process.Dispose();
    }

    private void Note(string? line)
    {
        if (line is not null)
        {
            lock (_said)
            {
                _ = _said.AppendLine(line);
            }
        }
    }
}
