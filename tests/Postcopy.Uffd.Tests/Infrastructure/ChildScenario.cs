using System.Globalization;
using System.Reflection;

namespace Postcopy.Uffd.Tests.Infrastructure;

/// <summary>The child's end of a <see cref="ChildProcess"/>: runs one static method and talks over stdin and stdout.</summary>
internal sealed class ChildScenario
{
    private ChildScenario(string[] arguments) => Arguments = arguments;

    /// <summary>What the parent passed.</summary>
    internal string[] Arguments { get; }

    /// <summary>Sends one line to the parent (<see cref="ChildProcess.ReadLine"/>).</summary>
    internal void Say(string line)
    {
        Console.Out.WriteLine(line);
        Console.Out.Flush();
    }

    /// <summary>Waits for one line of the parent; ends the process when the parent has gone.</summary>
    internal string Hear()
    {
        string? line = Console.In.ReadLine();
        if (line is null)
        {
            TestLibc.exit_now(3);
        }

        return line!;
    }

    internal static int Run(string[] args)
    {
        // The kernel ends this process in time even when its runtime is frozen, and when the parent was killed.
        _ = TestLibc.alarm(uint.Parse(args[1], CultureInfo.InvariantCulture));
        TestLibc.ForbidCoreDumps();
        Type type = typeof(ChildScenario).Assembly.GetType(args[2], throwOnError: true)!;
        MethodInfo method = type.GetMethod(args[3], BindingFlags.Static | BindingFlags.Public | BindingFlags.NonPublic)
            ?? throw new MissingMethodException(args[2], args[3]);
        try
        {
            method.CreateDelegate<Action<ChildScenario>>()(new ChildScenario(args[4..]));
            return 0;
        }
        catch (Exception e)
        {
            Console.Error.WriteLine(e);
            return 1;
        }
    }
}
