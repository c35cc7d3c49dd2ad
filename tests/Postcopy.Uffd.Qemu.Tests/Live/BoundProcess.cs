using System.Diagnostics;

namespace Postcopy.Uffd.Qemu.Tests.Live;

/// <summary>
/// A program that dies with this process, however that ends. A shell starts it and reads a pipe of which only this process has the
/// other end: at its end the shell kills the program. PR_SET_PDEATHSIG would kill it when the thread that started it ends.
/// </summary>
internal sealed class BoundProcess : IDisposable
{
    // A job of the shell has its input from /dev/null if it is not told otherwise; the program must not hold the pipe.
    internal const string Script =
        "exec 3<&0; \"$@\" 3<&- < /dev/null & program=$!; { cat <&3 > /dev/null 2>&1; kill -KILL $program; } 2> /dev/null & watcher=$!; " +
        "wait $program; code=$?; kill $watcher 2> /dev/null; exit $code";

    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(10);
    private readonly Process _shell;

    private BoundProcess(Process shell) => _shell = shell;

    internal bool HasExited => _shell.HasExited;

    /// <summary>All that it has written to stderr; waits for its end.</summary>
    internal string Errors => _shell.StandardError.ReadToEnd();

    /// <param name="command">A program and its arguments, without spaces in them.</param>
    /// <param name="directory">Its working directory.</param>
    internal static BoundProcess Start(string command, string directory)
    {
        ProcessStartInfo start = new("/bin/sh", ["-c", Script, "sh", .. command.Split(' ', StringSplitOptions.RemoveEmptyEntries)])
        {
            RedirectStandardInput = true,
            RedirectStandardError = true,
            WorkingDirectory = directory,
        };
        return new BoundProcess(Process.Start(start)!);
    }

    public void Dispose()
    {
        _shell.StandardInput.Close();
        using (_shell)
        {
            if (!_shell.WaitForExit(s_patience))
            {
                throw new TimeoutException("The program outlives the shell that ends it.");
            }
        }
    }
}
