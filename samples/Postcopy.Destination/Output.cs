using System.Globalization;
using Postcopy.Uffd;
using Postcopy.Uffd.Qemu;
using Spectre.Console;

namespace Postcopy.Destination;

/// <summary>
/// What the user sees: live progress on a terminal, a line a second elsewhere, and the report. Everything but the report
/// goes to standard error, so that a report on standard output can be piped.
/// </summary>
internal sealed class Output
{
    private static readonly TimeSpan s_frame = TimeSpan.FromMilliseconds(200);
    private static readonly TimeSpan s_line = TimeSpan.FromSeconds(1);

    private readonly DestinationOptions _options;
    private readonly LastProblem _problem = new();
    // Wide enough for any line: a log must not be folded at a width that nobody has.
    private const int UnfoldedWidth = 1000;

    private readonly IAnsiConsole _console = AnsiConsole.Create(new AnsiConsoleSettings { Out = new AnsiConsoleOutput(Console.Error) });

    internal Output(DestinationOptions options)
    {
        _options = options;
        if (Console.IsErrorRedirected)
        {
            _console.Profile.Width = UnfoldedWidth;
        }
    }

    internal void Info(string text) => _console.MarkupLineInterpolated(CultureInfo.InvariantCulture, $"{text}");

    /// <summary>Where the library logs: only the newest problem is kept, for the live view.</summary>
    internal LastProblem Problem => _problem;

    internal void Warn(string text)
    {
        _problem.Note(text);
        _console.MarkupLineInterpolated(CultureInfo.InvariantCulture, $"[yellow]warning:[/] {text}");
    }

    internal void Error(string text) => _console.MarkupLineInterpolated(CultureInfo.InvariantCulture, $"[red]error:[/] {text}");

    /// <summary>Shows progress until the migration has ended, however it ends.</summary>
    internal async Task FollowAsync(Task receiving, PostcopyDestination destination, QemuIncoming incoming)
    {
        ProgressView view = new(destination, incoming);
        if (!_console.Profile.Capabilities.Interactive || !_console.Profile.Capabilities.Ansi || Console.IsErrorRedirected)
        {
            while (await Task.WhenAny(receiving, Task.Delay(s_line)) != receiving)
            {
                if (view.Line() is { } line)
                {
                    await Console.Error.WriteLineAsync(line);
                }
            }

            return;
        }

        LiveView live = new(destination, view, _problem, _console);
        await _console.Live(live.Frame()).AutoClear(true).Overflow(VerticalOverflow.Crop).StartAsync(async context =>
        {
            while (await Task.WhenAny(receiving, Task.Delay(s_frame)) != receiving)
            {
                context.UpdateTarget(live.Frame());
            }
        });
    }

    internal void Summary(CompletionReport report, QemuIncoming incoming, VcpuOutcome touched)
    {
        QemuIncomingStatistics wire = incoming.Statistics;
        Info($"complete: {Quantity.Bytes(report.TotalBytes)} in {report.Duration.TotalSeconds:0.00} s after the switch, {Quantity.Bytes(wire.Bytes)} over the wire");
        Info($"pages: {wire.Pages} with content, {wire.ZeroPages} zero, {wire.PrecopyPages} of them by precopy");
        Info($"faults: {report.Faults.Messages} messages, {report.Faults.Requests} pages asked for, {report.Faults.Duplicates} repetitions");
        if (touched.Touches > 0)
        {
            Info(touched.Wrong == 0 ? $"touches: {touched.Touches}, each saw the right content" : $"touches: {touched.Wrong} of {touched.Touches} saw WRONG content");
        }
    }

    internal async Task ReportAsync(CompletionReport report, QemuIncoming incoming, VcpuThreads? vcpus, CancellationToken cancellation)
    {
        string text = _options.Report switch
        {
            "json" => incoming.GetReport().ToJson() + Environment.NewLine,
            "hmp" => incoming.GetReport().ToText(),
            _ => TextReport.Write(report, vcpus),
        };
        if (_options.ReportFile is { } path)
        {
            await File.WriteAllTextAsync(path, text, cancellation);
        }
        else
        {
            await Console.Out.WriteAsync(text);
        }
    }
}
