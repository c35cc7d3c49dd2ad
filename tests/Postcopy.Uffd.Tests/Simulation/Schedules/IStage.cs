namespace Postcopy.Uffd.Tests.Simulation.Schedules;

/// <summary>
/// Where a schedule is played. After each command all threads have come to rest: done, or waiting in the kernel.
/// A page that was copied reads as 100 and its number; a thread answers "waits" or what it read.
/// </summary>
internal interface IStage : IDisposable
{
    internal const string Waits = "waits";

    internal const string ForkDone = "forked";

    internal const string RemoveDone = "done";

    long PageBytes { get; }

    /// <summary>A thread's own touch.</summary>
    string Reads(string thread, int page);

    /// <summary>A touch by the kernel in a system call.</summary>
    string SystemCallReads(string thread, int page);

    string Removes(string thread, (int First, int Count) range);

    string Forks(string thread);

    string State(string thread);

    void Signal(string thread);

    /// <summary>All messages that are there, in their order; faults that follow each other by thread.</summary>
    string Read();

    UffdResult Operate(string operation, (int First, int Count) range, UffdPlaceFlags flags);

    /// <summary>Writes the page's content into the page cache.</summary>
    void FillCache(int page);

    /// <summary>Leaves that many free huge pages.</summary>
    void SetPool(int pages);

    /// <summary>Kills the process that owns the memory.</summary>
    void Exit();

    void Unregister();

    internal static int ContentOf(int page) => 100 + page;

    internal static string Describe(IEnumerable<UffdMessage> messages, Func<uint, string> nameOf, Func<nuint, long> pageOf)
    {
        List<string> texts = [], faults = [];
        foreach (UffdMessage m in messages)
        {
            if (m.Event == UffdEvent.Pagefault)
            {
                faults.Add($"{nameOf(m.ThreadId)} faults on {pageOf(m.Address)}{((m.Flags & UffdPagefaultFlags.Minor) != 0 ? " (minor)" : "")}");
                continue;
            }

            Flush();
            texts.Add(m.Event == UffdEvent.Remove ? $"remove {pageOf(m.Range.Start)}+{pageOf(m.Range.Start + m.Range.Length) - pageOf(m.Range.Start)}"
                : m.Event.ToString().ToLowerInvariant());
        }

        Flush();
        return texts.Count == 0 ? "nothing" : string.Join(", ", texts);

        void Flush()
        {
            faults.Sort(StringComparer.Ordinal);
            texts.AddRange(faults);
            faults.Clear();
        }
    }
}
