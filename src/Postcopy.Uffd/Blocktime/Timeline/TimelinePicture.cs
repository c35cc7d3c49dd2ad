using System.Globalization;

namespace Postcopy.Uffd;

/// <summary>The picture: figures, a lane per vCPU under the band of their overlap, placement rate, latency distribution.</summary>
/// <remarks>
/// Everything that is many is drawn per pixel column: a lane costs at most some kilobytes, however many intervals it has.
/// </remarks>
internal sealed partial class TimelinePicture
{
    private const int Left = 128;
    private const int Plot = 880;
    private const int Right = Left + Plot;
    private const int Width = 1160;
    private const int Margin = 24;
    private const int Shades = 4;
    private const int NameLimit = 15;
    private const double Bar = 14;

    private readonly BlocktimeTimeline _timeline;
    private readonly BlocktimeReport _report;
    private readonly double _span;
    private readonly PictureWriter _out = new();
    private double _y = 40;

    private TimelinePicture(BlocktimeTimeline timeline)
    {
        _timeline = timeline;
        _report = timeline.Report;
        _span = timeline.End - timeline.Start;
    }

    /// <summary>The svg element, without an XML declaration, so that it can stand in HTML too.</summary>
    internal static string Draw(BlocktimeTimeline timeline, string title)
    {
        TimelinePicture picture = new(timeline);
        picture.DrawFigures(title);
        picture.DrawLanes();
        picture.DrawRate();
        picture.DrawLatency();
        double height = picture._y + 8;
        PictureWriter svg = new();
        _ = svg.Raw($"<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {Width} {PictureWriter.Number(height)}\" width=\"{Width}\" height=\"{PictureWriter.Number(height)}\" class=\"pcu\" role=\"img\">\n");
        _ = svg.Raw($"<title>{PictureWriter.Escape(title)}</title>\n<style>").Raw(PictureStyle.Svg).Raw("</style>\n");
        svg.Rectangle(0, 0, Width, height, "bg");
        return svg.Raw(picture._out.ToString()).Raw("</svg>\n").ToString();
    }

    private static string Share(double part, double whole) => (whole <= 0 ? 0 : part / whole * 100).ToString("0.0", CultureInfo.InvariantCulture) + " %";

    private static string Count(long count) => count.ToString("#,0", CultureInfo.InvariantCulture).Replace(',', ' ');

    private static string Plural(long count, string what) => Count(count) + " " + what + (count == 1 ? "" : "s");

    private static string Short(double count) => count switch
    {
        < 10_000 => Count((long)count),
        < 1_000_000 => (count / 1e3).ToString("0.#", CultureInfo.InvariantCulture) + "k",
        _ => (count / 1e6).ToString("0.##", CultureInfo.InvariantCulture) + "M",
    };

    private double X(double at) => Left + ((at - _timeline.Start) / _span * Plot);

    private void DrawFigures(string title)
    {
        _out.Text(Margin, _y, "title", PictureWriter.Shorten(title, 90));
        _y += 22;
        long blocked = 0;
        foreach (VcpuBlocktime vcpu in _report.Vcpus)
        {
            blocked += vcpu.BlocktimeNanoseconds;
        }

        int count = _report.Vcpus.Count;
        _out.Text(Margin, _y, "muted", FormattableString.Invariant($"{Plural(count, "vCPU")}, {Plural(_report.Timeline.Count, "blocked interval")} in {BlocktimeReport.Time((long)_span)}"));
        _y += 34;
        long mean = count == 0 ? 0 : blocked / count;
        LatencySummary latency = _report.VcpuLatency;
        (string Name, string Value, string Note)[] figures =
        [
            ("all vCPUs blocked at once", BlocktimeReport.Time(_report.TotalNanoseconds), Share(_report.TotalNanoseconds, _span) + " of the time shown"),
            ("blocked, mean of the vCPUs", BlocktimeReport.Time(mean), Share(mean, _span) + " of the time shown"),
            ("fault latency, median", BlocktimeReport.Time(latency.P50Nanoseconds), "mean " + BlocktimeReport.Time(latency.MeanNanoseconds)),
            ("99 % of faults within", BlocktimeReport.Time(latency.P99Nanoseconds), "longest " + BlocktimeReport.Time(latency.MaxNanoseconds)),
            ("placed", Placed(out string rate), rate),
        ];
        const double Step = (Width - (2 * Margin)) / 5.0;
        for (int i = 0; i < figures.Length; i++)
        {
            double x = Margin + (i * Step);
            _out.Text(x, _y, "muted", figures[i].Name);
            _out.Text(x, _y + 26, "figure", figures[i].Value);
            _out.Text(x, _y + 44, "muted", figures[i].Note);
        }

        _y += 84;
    }

    private string Placed(out string rate)
    {
        IReadOnlyList<PlacementSample> samples = _timeline.Placement;
        if (samples.Count < 2)
        {
            rate = "not sampled";
            return "-";
        }

        PlacementSample first = samples[0];
        PlacementSample last = samples[samples.Count - 1];
        double bytes = last.Bytes - first.Bytes;
        rate = "mean " + Bytes(bytes * 1e9 / (last.At - first.At)) + "/s";
        return Bytes(bytes);
    }

    private static string Bytes(double bytes)
    {
        (double size, string unit) = bytes switch
        {
            >= 1 << 30 => (1 << 30, "GiB"),
            >= 1 << 20 => (1 << 20, "MiB"),
            >= 1 << 10 => (1 << 10, "KiB"),
            _ => (1, "B"),
        };
        double value = bytes / size;
        return value.ToString(value < 10 && size > 1 ? "0.00" : value < 100 && size > 1 ? "0.0" : "0", CultureInfo.InvariantCulture) + " " + unit;
    }

    private void Heading(string text, string note)
    {
        _out.Text(Margin, _y, "heading", text);
        _out.Text(Width - Margin, _y, "muted end", note);
        _y += 14;
    }

    /// <summary>The marks of the time axis under a chart, with lines up through it.</summary>
    private void DrawTimeAxis(double top, double bottom)
    {
        PictureScale scale = PictureScale.Time(_span);
        for (int i = 0; i * scale.Step <= _span * 1.0001; i++)
        {
            double x = Left + (i * scale.Step / _span * Plot);
            _out.VerticalLine(x, top, bottom + 4, "grid");
            _out.Text(x, bottom + 17, "axis mid", scale.Label(i * scale.Step));
        }
    }

    private void DrawValueAxis(PictureScale scale, double top, double bottom)
    {
        int marks = (int)Math.Round(scale.Top / scale.Step);
        for (int i = 0; i <= marks; i++)
        {
            double y = bottom - ((bottom - top) * i / marks);
            _out.HorizontalLine(Left, Right, y, i == 0 ? "base" : "grid");
            _out.Text(Left - 8, y + 4, "axis end", scale.Label(i * scale.Step));
        }
    }
}
