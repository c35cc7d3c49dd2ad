using Xunit.MicrosoftTestingPlatform;
using Xunit.Runner.InProc.SystemConsole;

namespace Postcopy.Uffd.Tests.Infrastructure;

/// <summary>
/// What xunit would generate, with one thing before it: a process that <see cref="ChildProcess"/> started runs its
/// scenario and never reaches the test runner.
/// </summary>
internal static class TestEntryPoint
{
    public static async Task<int> Main(string[] args)
    {
        if (args.Length > 0 && args[0] == ChildProcess.Marker)
        {
            return ChildScenario.Run(args);
        }

        return args.Any(a => a is "-automated" or "@@")
            ? await ConsoleRunner.Run(args)
            : await TestPlatformTestFramework.RunAsync(args, SelfRegisteredExtensions.AddSelfRegisteredExtensions);
    }
}
