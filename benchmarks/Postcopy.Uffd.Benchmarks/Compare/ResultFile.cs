using System.Text.Json;
using System.Text.Json.Serialization;

namespace Postcopy.Uffd.Benchmarks.Compare;

/// <summary>Results for programs, and as they are kept under benchmarks/results.</summary>
internal static class ResultFile
{
    private static readonly JsonSerializerOptions s_json = new(JsonSerializerDefaults.Web)
    {
        WriteIndented = true,
        DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull,
        NumberHandling = JsonNumberHandling.AllowNamedFloatingPointLiterals,
    };

    internal sealed record Percentiles(double P50, double P90, double P99, double Max, long Count);

    internal sealed record Bounds(double Median, double Min, double Max);

    /// <summary>A row as it stands in the file.</summary>
    internal sealed record Entry
    {
        public required string Name { get; init; }

        public double? Ratio { get; init; }

        public double? Min { get; init; }

        public double? Max { get; init; }

        public int N { get; init; }

        public required string Goal { get; init; }

        public bool? Met { get; init; }

        public required string Verdict { get; init; }

        public Bounds? Aa { get; init; }

        public required string What { get; init; }

        public required string Unit { get; init; }

        public double? Ours { get; init; }

        public double? Baseline { get; init; }

        public Percentiles? OursNanoseconds { get; init; }

        public Percentiles? BaselineNanoseconds { get; init; }

        public Bounds? P99Ratio { get; init; }

        public Bounds? P99Aa { get; init; }

        public IReadOnlyDictionary<string, double>? Figures { get; init; }

        public string? Note { get; init; }

        /// <summary>When, of which commit, and how busy the machine was: a folder holds rows of several runs.</summary>
        public string? Measured { get; init; }
    }

    internal static void Write(string path, IEnumerable<RowResult> results) => Write(path, results.Select(ToEntry));

    /// <summary>Adds rows to what the machine's folder has; a row that was measured again replaces the old one.</summary>
    internal static void Save(string root, Machine machine, IEnumerable<RowResult> results)
    {
        string folder = Directory.CreateDirectory(Path.Combine(root, machine.Folder)).FullName;
        string path = Path.Combine(folder, "compare.json");
        Dictionary<string, Entry> entries = File.Exists(path)
            ? JsonSerializer.Deserialize<Dictionary<string, Entry>>(File.ReadAllText(path), s_json)!
            : [];
        string measured = $"{machine.Date}, {machine.Commit}, load {File.ReadAllText("/proc/loadavg").Split(' ')[1]}";
        foreach (Entry entry in results.Select(ToEntry))
        {
            entries[entry.Name] = entry with { Measured = measured };
        }

        Entry[] ordered = [.. entries.Values.OrderBy(e => Rows.AllRows.IndexOf(e.Name))];
        Write(path, ordered);
        File.WriteAllText(Path.Combine(folder, "machine.json"), JsonSerializer.Serialize(machine, s_json) + "\n");
        File.WriteAllText(Path.Combine(folder, "compare.md"), $"{machine}\n\n{ResultTable.Markdown(ordered)}");
    }

    internal static void WriteJson<T>(string path, T result) => File.WriteAllText(path, JsonSerializer.Serialize(result, s_json) + "\n");

    private static void Write(string path, IEnumerable<Entry> entries) => WriteJson(path, entries.ToDictionary(e => e.Name));

    private static Entry ToEntry(RowResult r) => new()
    {
        Name = r.Name,
        Ratio = r.Ratio?.Median,
        Min = r.Ratio?.Min,
        Max = r.Ratio?.Max,
        N = r.Ratio?.N ?? 0,
        Goal = r.Goal.ToString(),
        Met = r.Verdict switch { Verdict.Met or Verdict.WithinNoise => true, Verdict.Missed => false, _ => null },
        Verdict = ResultTable.Word(r.Verdict),
        Aa = ToBounds(r.Self),
        What = r.What,
        Unit = r.Unit,
        Ours = r.Ours?.Median,
        Baseline = r.Baseline?.Median,
        OursNanoseconds = ToPercentiles(r.OurLatency),
        BaselineNanoseconds = ToPercentiles(r.BaselineLatency),
        P99Ratio = ToBounds(r.TailRatio),
        P99Aa = ToBounds(r.TailSelf),
        Figures = r.Figures.Count == 0 ? null : r.Figures,
        Note = r.Note,
    };

    private static Bounds? ToBounds(Interval? i) => i is { } x ? new Bounds(x.Median, x.Min, x.Max) : null;

    private static Percentiles? ToPercentiles(Distribution? d) => d is { } x ? new Percentiles(x.P50, x.P90, x.P99, x.Max, x.Count) : null;
}
