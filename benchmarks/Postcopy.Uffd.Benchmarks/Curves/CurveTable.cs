using System.Globalization;
using System.Text;
using System.Text.Json;
using Postcopy.Uffd.Benchmarks.Compare;

namespace Postcopy.Uffd.Benchmarks.Curves;

/// <summary>Figures over something that grows: printed line by line, kept as Markdown and JSON.</summary>
internal sealed class CurveTable(string name, params string[] columns)
{
    private readonly List<string[]> _rows = [];

    /// <summary>Adds a line and prints it.</summary>
    internal void Add(params ReadOnlySpan<object> cells)
    {
        if (_rows.Count == 0)
        {
            Console.WriteLine(string.Join("  ", columns.Select(c => c.PadRight(Width(c)))));
        }

        string[] row = new string[cells.Length];
        for (int i = 0; i < row.Length; i++)
        {
            row[i] = string.Format(CultureInfo.InvariantCulture, cells[i] is double ? "{0:0.###}" : "{0}", cells[i]);
        }

        _rows.Add(row);
        Console.WriteLine(string.Join("  ", row.Select((cell, i) => cell.PadRight(Width(columns[i])))));
    }

    /// <summary>Writes it to the machine's folder.</summary>
    internal void Save(string root, Machine machine)
    {
        string folder = Directory.CreateDirectory(Path.Combine(root, machine.Folder)).FullName;
        StringBuilder text = new();
        _ = text.Append(CultureInfo.InvariantCulture, $"{machine}\n\n| {string.Join(" | ", columns)} |\n|{string.Concat(columns.Select(_ => "---|"))}\n");
        foreach (string[] row in _rows)
        {
            _ = text.Append(CultureInfo.InvariantCulture, $"| {string.Join(" | ", row)} |\n");
        }

        File.WriteAllText(Path.Combine(folder, $"{name}.md"), text.ToString());
        var members = _rows.Select(row => columns.Zip(row).ToDictionary(c => c.First, c => c.Second));
        File.WriteAllText(Path.Combine(folder, $"{name}.json"), JsonSerializer.Serialize(members, s_json) + "\n");
    }

    private static readonly JsonSerializerOptions s_json = new() { WriteIndented = true };

    private static int Width(string column) => Math.Max(column.Length, 10);
}
