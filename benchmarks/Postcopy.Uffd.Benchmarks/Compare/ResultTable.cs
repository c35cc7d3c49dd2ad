using System.Globalization;
using System.Text;

namespace Postcopy.Uffd.Benchmarks.Compare;

/// <summary>Results for people: lines while the rows run, a table to keep.</summary>
internal static class ResultTable
{
    internal static void WriteLine(TextWriter to, RowResult result)
    {
        to.WriteLine(Text($"{result.Name,-26} {Ratio(result),-24} A/A {Range(result.Self),-20} goal {result.Goal,-10} {Word(result.Verdict)}"));
        to.WriteLine(Text($"    {result.What}"));
        if (result.Ours is { } ours)
        {
            to.WriteLine(Text($"    ours {Value(ours.Median, result.Unit)}{Tail(result.OurLatency)}"));
        }

        if (result.Baseline is { } baseline)
        {
            to.WriteLine(Text($"    base {Value(baseline.Median, result.Unit)}{Tail(result.BaselineLatency)}"));
        }

        if (result.TailRatio is { } tail)
        {
            to.WriteLine(Text($"    p99 ratio {tail.Median:0.00} ({tail.Min:0.00}..{tail.Max:0.00}), A/A {Range(result.TailSelf)}"));
        }

        if (result.Figures.Count > 0)
        {
            to.WriteLine($"    {string.Join(", ", result.Figures.Select(f => Text($"{f.Key} {f.Value:0.####}")))}");
        }

        if (result.Note is { } note)
        {
            to.WriteLine($"    {note}");
        }
    }

    internal static string Word(Verdict verdict) => verdict switch
    {
        Verdict.Met => "met",
        Verdict.WithinNoise => "met within A/A",
        Verdict.Missed => "missed",
        Verdict.NotMeasured => "not measured",
        _ => "reported",
    };

    internal static string Value(double value, string unit) => unit switch
    {
        "ns" when value >= 1e9 => Text($"{value / 1e9:0.00} s"),
        "ns" when value >= 1e6 => Text($"{value / 1e6:0.0} ms"),
        "ns" when value >= 1e4 => Text($"{value / 1e3:0.0} us"),
        "ns" when value >= 1e3 => Text($"{value / 1e3:0.00} us"),
        "ns" => Text($"{value:0.0} ns"),
        "" => Text($"{value:0.000}"),
        _ => Text($"{value:0.###} {unit}"),
    };

    internal static string Markdown(IEnumerable<ResultFile.Entry> entries)
    {
        StringBuilder text = new();
        _ = text.AppendLine("| row | ours | baseline | ratio (min..max, n) | A/A | goal | verdict | measured |");
        _ = text.AppendLine("|---|---|---|---|---|---|---|---|");
        foreach (ResultFile.Entry e in entries)
        {
            _ = text.Append(Text($"| {e.Name} | {Cell(e.Ours, e.Unit)} | {Cell(e.Baseline, e.Unit)} | "))
                .Append(e.Ratio is null ? "-" : Text($"**{Number(e.Ratio)}** ({Number(e.Min)}..{Number(e.Max)}, {e.N})"))
                .Append(e.Aa is { } aa ? Text($" | {aa.Median:0.00} ({aa.Min:0.00}..{aa.Max:0.00})") : " | -")
                .AppendLine(Text($" | {e.Goal} | {e.Verdict} | {e.Measured ?? "-"} |"));
        }

        return text.ToString().Replace("\r", "", StringComparison.Ordinal);
    }

    private static string Cell(double? value, string unit) => value is { } v ? Value(v, unit) : "-";

    private static string Number(double? value) =>
        value is { } v ? v.ToString(v < 0.1 ? "0.000" : "0.00", CultureInfo.InvariantCulture) : "-";

    private static string Ratio(RowResult result) => result.Ratio is { } r ? $"{Number(r.Median)} ({Number(r.Min)}..{Number(r.Max)})" : "-";

    private static string Range(Interval? interval) => interval is { } i ? Text($"{i.Median:0.00} ({i.Min:0.00}..{i.Max:0.00})") : "-";

    private static string Tail(Distribution? latency) => latency is { } d
        ? $"   p50 {Value(d.P50, "ns")}, p90 {Value(d.P90, "ns")}, p99 {Value(d.P99, "ns")}, max {Value(d.Max, "ns")}"
        : "";

    private static string Text(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);
}
