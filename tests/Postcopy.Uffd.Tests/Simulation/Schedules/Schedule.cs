using System.Globalization;

namespace Postcopy.Uffd.Tests.Simulation.Schedules;

/// <summary>
/// A schedule file: lines of "command : what it answers". It is played on a stage, the simulated kernel or the real
/// one, and both must answer as the file says. The commands are in README.md beside the files.
/// </summary>
internal sealed class Schedule
{
    private readonly (int Number, string Command, string Expected)[] _lines;

    private Schedule(string name, (int, string, string)[] lines)
    {
        Name = name;
        _lines = lines;
        string[] words = _lines[0].Command.Split(' ');
        Assert.True(words is ["memory", _, _, ..], $"{name} does not begin with 'memory KIND PAGES'.");
        Kind = words[1];
        Pages = Number(words[2]);
        Features = words[3..].Aggregate(UffdFeatures.None, (features, word) => features | (word == "remove" ? UffdFeatures.EventRemove : UffdFeatures.EventFork));
    }

    internal string Name { get; }

    /// <summary>anonymous, huge, memfd (registered for minor faults too), or foreign (of another process).</summary>
    internal string Kind { get; }

    internal int Pages { get; }

    internal UffdFeatures Features { get; }

    internal static IEnumerable<string> Names => typeof(Schedule).Assembly.GetManifestResourceNames()
        .Where(n => n.EndsWith(".schedule", StringComparison.Ordinal)).Order(StringComparer.Ordinal);

    internal static Schedule Load(string name)
    {
        using StreamReader reader = new(typeof(Schedule).Assembly.GetManifestResourceStream(name)!);
        List<(int, string, string)> lines = [];
        for (int number = 1; reader.ReadLine() is { } line; number++)
        {
            string text = line.Split('#')[0].Trim();
            if (text.Length > 0)
            {
                string[] sides = text.Split(" : ", 2);
                lines.Add((number, sides[0].Trim(), sides.Length > 1 ? sides[1].Trim() : string.Empty));
            }
        }

        return new Schedule(name, [.. lines]);
    }

    /// <summary>Plays it; each difference is a line. Goes on after one, so that all are seen.</summary>
    internal IReadOnlyList<string> Play(IStage stage)
    {
        List<string> differences = [];
        foreach ((int number, string command, string expected) in _lines.Skip(1))
        {
            string actual = Do(stage, command.Split(' '));
            if (actual != expected)
            {
                differences.Add($"{Name}, line {number}: '{command}' should answer '{expected}', and answered '{actual}'");
            }
        }

        return differences;
    }

    private static string Do(IStage stage, string[] words) => words switch
    {
        ["read"] => stage.Read(),
        ["exit"] => Done(stage.Exit),
        ["unregister"] => Done(stage.Unregister),
        ["pool", var n] => Done(() => stage.SetPool(Number(n))),
        ["fill-cache", var page] => Done(() => stage.FillCache(Number(page))),
        ["signal", var thread] => Done(() => stage.Signal(thread)),
        ["settled", .. var operation] => WhenSettled(stage, operation),
        ["copy" or "zero" or "continue" or "poison" or "wake", var range, .. var flags] => Text(Operate(stage, words[0], range, flags)),
        [var thread, "reads", var page] => stage.Reads(thread, Number(page)),
        [var thread, "read(2)s", var page] => stage.SystemCallReads(thread, Number(page)),
        [var thread, "removes", var range] => stage.Removes(thread, Range(range)),
        [var thread, "forks"] => stage.Forks(thread),
        [var thread] => stage.State(thread),
        _ => throw new FormatException($"No such command: {string.Join(' ', words)}"),
    };

    private static string WhenSettled(IStage stage, string[] words)
    {
        long start = Environment.TickCount64;
        while (true)
        {
            UffdResult result = Operate(stage, words[0], words[1], words[2..]);
            if (result.Outcome != UffdOutcome.AddressSpaceChanging || Environment.TickCount64 - start > 10_000)
            {
                return Text(result);
            }
        }
    }

    private static UffdResult Operate(IStage stage, string operation, string range, string[] flags)
    {
        UffdResult result = stage.Operate(operation, Range(range), flags is ["dontwake"] ? UffdPlaceFlags.DontWake : UffdPlaceFlags.None);
        return result with { Bytes = result.Bytes / stage.PageBytes };
    }

    private static string Text(UffdResult result) => result.Outcome == UffdOutcome.Partial ? $"Partial {result.Bytes}" : result.Outcome.ToString();

    private static string Done(Action action)
    {
        action();
        return string.Empty;
    }

    private static (int First, int Count) Range(string text) =>
        text.Split('+') is [var first, var count] ? (Number(first), Number(count)) : (Number(text), 1);

    private static int Number(string text) => int.Parse(text, CultureInfo.InvariantCulture);
}
