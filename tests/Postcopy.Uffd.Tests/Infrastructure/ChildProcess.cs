using System.Diagnostics;
using System.Globalization;
using System.Reflection;

namespace Postcopy.Uffd.Tests.Infrastructure;

/// <summary>
/// Runs a static method of the test assembly in a process of its own: for whatever may die (SIGBUS, SIGKILL, the OOM
/// killer), give up its rights, or freeze the runtime. Both sides enforce the deadline.
/// </summary>
/// <example><code>
/// using ChildProcess child = ChildProcess.Start(HoldMemory, "arg");   // static void HoldMemory(ChildScenario child)
/// string line = child.ReadLine();                                     // what it said with child.Say(...)
/// child.WriteLine("go on");                                           // wakes its child.Hear()
/// child.WaitForSuccess();
/// </code></example>
internal sealed class ChildProcess : IDisposable
{
    internal const string Marker = "--postcopy-child";

    private readonly Process _process;
    private readonly Task<string> _errors;
    private readonly TimeSpan _limit;

    private ChildProcess(Process process, TimeSpan limit)
    {
        _process = process;
        _limit = limit;
        _errors = process.StandardError.ReadToEndAsync();
    }

    internal int Id => _process.Id;

    internal bool HasExited => _process.HasExited;

    /// <summary>What the child wrote to stderr; waits for its end.</summary>
    internal string Errors => _errors.WaitAsync(_limit).GetAwaiter().GetResult();

    internal static ChildProcess Start(Action<ChildScenario> scenario, params string[] arguments) =>
        Start(scenario, TimeSpan.FromSeconds(30), arguments);

    internal static ChildProcess Start(Action<ChildScenario> scenario, TimeSpan limit, params string[] arguments) =>
        StartWith(scenario, limit, new Dictionary<string, string>(), arguments);

    /// <summary>With variables of its own, such as the runtime's settings (DOTNET_...).</summary>
    internal static ChildProcess StartWith(Action<ChildScenario> scenario, TimeSpan limit, IReadOnlyDictionary<string, string> environment, params string[] arguments)
    {
        MethodInfo method = scenario.Method;
        if (!method.IsStatic || method.DeclaringType?.FullName is not { } type)
        {
            throw new ArgumentException("A child scenario is a static method: the child has none of this process's objects.", nameof(scenario));
        }

        string assembly = typeof(ChildProcess).Assembly.Location;
        string host = Path.ChangeExtension(assembly, null);
        ProcessStartInfo start = new()
        {
            FileName = File.Exists(host) ? host : "dotnet",
            UseShellExecute = false,
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        if (!File.Exists(host))
        {
            start.ArgumentList.Add(assembly);
        }

        string seconds = ((int)Math.Ceiling(limit.TotalSeconds)).ToString(CultureInfo.InvariantCulture);
        foreach (string argument in (string[])[Marker, seconds, type, method.Name, .. arguments])
        {
            start.ArgumentList.Add(argument);
        }

        // Dumps of a test that is meant to die would only cost time.
        start.Environment["DOTNET_DbgEnableMiniDump"] = "0";
        start.Environment["DOTNET_ROOT"] = Path.GetDirectoryName(Environment.ProcessPath is { } p && Path.GetFileName(p) == "dotnet"
            ? p : Path.GetFullPath(Path.Combine(Path.GetDirectoryName(typeof(object).Assembly.Location)!, "../../../dotnet")));
        foreach ((string name, string value) in environment)
        {
            start.Environment[name] = value;
        }

        return new ChildProcess(Process.Start(start) ?? throw new InvalidOperationException("The child did not start."), limit);
    }

    /// <summary>Runs to the end and returns all that the child said; fails the test when it did not succeed.</summary>
    internal static string Run(Action<ChildScenario> scenario, params string[] arguments)
    {
        using ChildProcess child = Start(scenario, arguments);
        string output = child.ReadToEnd();
        child.WaitForSuccess();
        return output;
    }

    /// <summary>The child's next line; fails the test when there is none in time.</summary>
    internal string ReadLine()
    {
        string? line = Await(_process.StandardOutput.ReadLineAsync());
        if (line is null)
        {
            Assert.Fail($"The child ended without the expected line, exit code {WaitForExit()}. Its errors: {Errors}");
        }

        return line;
    }

    /// <summary>All that the child says until it closes its output; fails the test when it does not end in time.</summary>
    internal string ReadToEnd() => Await(_process.StandardOutput.ReadToEndAsync());

    internal void WriteLine(string line)
    {
        _process.StandardInput.WriteLine(line);
        _process.StandardInput.Flush();
    }

    internal void Kill()
    {
        _process.Kill();
        _ = WaitForExit();
    }

    /// <summary>Waits for the end: the exit code, 128 + n for death by signal n.</summary>
    internal int WaitForExit()
    {
        if (!_process.WaitForExit(_limit))
        {
            _process.Kill();
            Assert.Fail($"The child still ran after {_limit} and was killed.");
        }

        return _process.ExitCode;
    }

    internal void WaitForSuccess()
    {
        int code = WaitForExit();
        Assert.True(code == 0, $"The child ended with code {code}. Its errors: {Errors}");
    }

    private T Await<T>(Task<T> output)
    {
        try
        {
            return output.WaitAsync(_limit).GetAwaiter().GetResult();
        }
        catch (TimeoutException)
        {
            Kill();
            Assert.Fail($"The child said nothing for {_limit} and was killed: it hangs. Its errors: {Errors}");
            throw;
        }
    }

    public void Dispose()
    {
        if (!_process.HasExited)
        {
            _process.Kill();
            _process.WaitForExit(TimeSpan.FromSeconds(10));
        }

        _process.Dispose();
    }
}
