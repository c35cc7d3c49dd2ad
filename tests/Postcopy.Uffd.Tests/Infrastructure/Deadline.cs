using System.Diagnostics;
using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd.Tests.Infrastructure;

/// <summary>Waits for something that raises no event, in bounded steps and with an end.</summary>
internal static class Deadline
{
    internal static readonly TimeSpan Default = TimeSpan.FromSeconds(15);

    internal static void Until(Func<bool> condition, string what)
    {
        long start = Stopwatch.GetTimestamp();
        while (!condition())
        {
            if (Stopwatch.GetElapsedTime(start) > Default)
            {
                Assert.Fail($"Not within {Default}: {what}.");
            }

            Libc.Pause(50_000);
        }
    }
}
