using System.Globalization;
using Postcopy.Uffd;
using Spectre.Console;
using Spectre.Console.Rendering;

namespace Postcopy.Destination;

/// <summary>
/// What a person at a terminal sees: a bar with state, rate and time to go, a lane per vCPU that moves with time, and the last
/// problem. Every line is cut to the terminal's width, and as many lanes are shown as it has lines for.
/// </summary>
internal sealed class LiveView
{
    private const int OtherLines = 5;
    private const int MostLanes = 16;
    private const int WidestBar = 50;
    private const int NameWidth = 11;
    private const int ShareWidth = 8;
    private const int WidestLane = 100;

    private static readonly Style s_bar = new(Color.Blue);
    private static readonly Style s_lane = new(Color.DarkOrange);
    private static readonly Style s_overlap = new(Color.HotPink);
    private static readonly Style s_problem = new(Color.Yellow);

    private readonly PostcopyDestination _destination;
    private readonly ProgressView _progress;
    private readonly LastProblem _problem;
    private readonly IAnsiConsole _console;
    private readonly VcpuHistory _overlap = new();
    private readonly VcpuHistory _others = new();
    private readonly List<VcpuHistory> _lanes = [];
    private long _lastAt;

    internal LiveView(PostcopyDestination destination, ProgressView progress, LastProblem problem, IAnsiConsole console)
    {
        _destination = destination;
        _progress = progress;
        _problem = problem;
        _console = console;
    }

    private bool Unicode => _console.Profile.Capabilities.Unicode;

    /// <summary>The next frame.</summary>
    internal IRenderable Frame()
    {
        _progress.Update();
        int width = Math.Max(20, _console.Profile.Width - 1);
        int lanes = Math.Clamp(_console.Profile.Height - OtherLines - 3, 1, MostLanes);
        List<IRenderable> lines = [Bar(width), Plain(_progress.Text(), width)];
        if (_progress.Report is { } report)
        {
            AddLanes(lines, report, lanes, width);
        }

        lines.Add(_problem.Text is { } problem ? Line(("last error ", Style.Plain), (Cut(problem, width - 11), s_problem)) : Plain("last error none", width));
        return new Rows(lines);
    }

    private static string Cut(string text, int width) => text.Length <= width ? text : width <= 3 ? text[..Math.Max(0, width)] : text[..(width - 3)] + "...";

    private static Paragraph Line(params (string Text, Style Style)[] parts)
    {
        Paragraph line = new() { Overflow = Overflow.Crop };
        foreach ((string text, Style style) in parts)
        {
            _ = line.Append(text, style);
        }

        return line;
    }

    private static Paragraph Plain(string text, int width) => Line((Cut(text, width), Style.Plain));

    private Paragraph Bar(int width)
    {
        string state = _destination.State.ToString().ToLowerInvariant().PadRight(8) + " ";
        string figures = string.Create(CultureInfo.InvariantCulture,
            $" {_progress.Fraction * 100,3:0}%  {Quantity.Bytes(_progress.Here)} of {Quantity.Bytes(_progress.Total)}");
        int length = Math.Clamp(width - state.Length - figures.Length - 2, 0, WidestBar);
        int filled = (int)(length * _progress.Fraction);
        string full = new(Unicode ? '\u2588' : '#', filled);
        string rest = new(Unicode ? '\u2591' : '-', length - filled);
        return Line((state, Style.Plain), ("[", Style.Plain), (full + rest, s_bar), ("]", Style.Plain), (Cut(figures, width - state.Length - length - 2), Style.Plain));
    }

    private void AddLanes(List<IRenderable> lines, BlocktimeReport report, int room, int width)
    {
        long frame = _lastAt == 0 ? 0 : report.At - _lastAt;
        _lastAt = report.At;
        _overlap.Add(report.TotalNanoseconds, frame);
        while (_lanes.Count < report.Vcpus.Count)
        {
            _lanes.Add(new VcpuHistory());
        }

        for (int i = 0; i < _lanes.Count; i++)
        {
            _lanes[i].Add(report.Vcpus[i].BlocktimeNanoseconds, frame);
        }

        if (_lanes.Count == 0)
        {
            return;
        }

        // With more vCPUs than lines, the last lane is the mean of those that have none.
        int shown = _lanes.Count <= room ? _lanes.Count : room - 1;
        int others = _lanes.Count - shown;
        _others.Add(others == 0 ? 0 : (long)report.Vcpus.Skip(shown).Average(v => (double)v.BlocktimeNanoseconds), frame);
        lines.Add(Lane("all at once", _overlap, s_overlap, width));
        for (int i = 0; i < shown; i++)
        {
            lines.Add(Lane(report.Vcpus[i].Name ?? FormattableString.Invariant($"vCPU {i}"), _lanes[i], s_lane, width));
        }

        if (others > 0)
        {
            lines.Add(Lane(FormattableString.Invariant($"{others} more"), _others, s_lane, width));
        }
    }

    private Paragraph Lane(string name, VcpuHistory history, Style style, int width)
    {
        int lane = Math.Clamp(width - NameWidth - ShareWidth - 1, 0, WidestLane);
        string share = string.Create(CultureInfo.InvariantCulture, $"{history.Now * 100,6:0} %");
        return Line((Cut(name, NameWidth).PadRight(NameWidth) + " ", Style.Plain), (history.Lane(lane, Unicode), style), (Cut(share, width - NameWidth - 1 - lane), Style.Plain));
    }
}
