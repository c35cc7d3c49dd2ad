using System.Text;

namespace Postcopy.Uffd;

internal sealed partial class TimelinePicture
{
    private const double LanePitch = 18;
    private const double DenseBar = 9;
    private const double DensePitch = 12;
    private const int RoomyLanes = 24;

    private void DrawLanes()
    {
        int lanes = Math.Min(_report.Vcpus.Count, BlocktimeTimeline.LaneLimit);
        bool dense = lanes > RoomyLanes;
        double bar = dense ? DenseBar : Bar;
        double pitch = dense ? DensePitch : LanePitch;
        Heading("Blocked vCPUs", "blocked, and its share of the time shown");
        DrawLegend(_y + 8);
        _y += 28;

        double top = _y;
        TimeColumns overlap = Columns();
        foreach (OverlapInterval interval in _report.Overlaps)
        {
            overlap.Add(interval.Start, interval.End);
        }

        double first = top + Bar + 10;
        double bottom = first + Math.Max(1, lanes) * pitch;
        DrawTimeAxis(top, bottom);
        DrawBand(overlap, top + Bar, bottom);
        DrawLane("overlap", overlap, top, Bar, "all at once", "name strong", _report.TotalNanoseconds,
            FormattableString.Invariant($"all vCPUs blocked at once: {BlocktimeReport.Time(_report.TotalNanoseconds)}"));

        TimeColumns[] columns = new TimeColumns[lanes];
        for (int i = 0; i < lanes; i++)
        {
            columns[i] = Columns();
        }

        foreach (BlockedInterval interval in _report.Timeline)
        {
            if (interval.Slot < lanes)
            {
                columns[interval.Slot].Add(interval.Start, interval.End);
            }
        }

        for (int i = 0; i < lanes; i++)
        {
            VcpuBlocktime vcpu = _report.Vcpus[i];
            string name = vcpu.Name ?? FormattableString.Invariant($"vCPU {vcpu.Slot}");
            DrawLane("blocked", columns[i], first + (i * pitch), bar, PictureWriter.Shorten(name, NameLimit), dense ? "name small" : "name", vcpu.BlocktimeNanoseconds,
                FormattableString.Invariant($"{name}: blocked {BlocktimeReport.Time(vcpu.BlocktimeNanoseconds)}, {Count(vcpu.Episodes)} faults, mean {BlocktimeReport.Time(vcpu.MeanLatencyNanoseconds)}, longest {BlocktimeReport.Time(vcpu.MaxLatencyNanoseconds)}"));
        }

        _y = bottom + 34;
        DrawNotKept(top, bottom);
        if (_report.Vcpus.Count > lanes)
        {
            _out.Text(Left, _y + 2, "muted", FormattableString.Invariant($"... and {_report.Vcpus.Count - lanes} more vCPUs without a lane; the figures and the first row count them."));
            _y += 20;
        }

        _y += 26;
    }

    private TimeColumns Columns() => new(_timeline.Start, _timeline.End, Plot);

    private void DrawLegend(double y)
    {
        double x = Left;
        foreach (string kind in (string[])["overlap", "blocked"])
        {
            string text = kind == "overlap" ? "all at once" : "this vCPU";
            for (int shade = 1; shade <= Shades; shade++)
            {
                _out.Rectangle(x, y - 10, 14, 12, FormattableString.Invariant($"{kind} f{shade}"));
                x += 15;
            }

            _out.Text(x + 5, y, "axis", text);
            x += 84;
        }

        _out.Text(x + 4, y, "axis", "shade: share of a pixel's time, up to 25, 50, 75, 100 %");
    }

    // The overlap once more as a faint band through all lanes, so that the eye finds it there.
    private void DrawBand(TimeColumns overlap, double top, double bottom)
    {
        StringBuilder data = new();
        for (int i = 0; i < Plot; i++)
        {
            int from = i;
            while (i < Plot && overlap[i] >= 0.5)
            {
                i++;
            }

            if (i > from)
            {
                _ = data.Append(FormattableString.Invariant($"M{Left + from} {PictureWriter.Number(top)}h{i - from}V{PictureWriter.Number(bottom)}h-{i - from}z"));
            }
        }

        if (data.Length > 0)
        {
            _out.Path("band", data.ToString());
        }
    }

    private void DrawLane(string kind, TimeColumns columns, double y, double height, string name, string style, long blocked, string title)
    {
        _out.Text(Left - 8, y + (height / 2) + 4, style + " end", name);
        _out.Text(Right + 8, y + (height / 2) + 4, style.Replace("name", "value"), FormattableString.Invariant($"{BlocktimeReport.Time(blocked)}, {Share(blocked, _span)}"));
        _ = _out.Raw($"<g class=\"lane {kind}\" transform=\"translate({Left} {PictureWriter.Number(y + (height / 2))})\" stroke-width=\"{PictureWriter.Number(height)}\"><title>{PictureWriter.Escape(title)}</title>\n");
        _ = _out.Raw($"<path class=\"track\" d=\"M0 0h{Plot}\"/>");
        StringBuilder[] shades = new StringBuilder[Shades];
        for (int i = 0; i < Plot;)
        {
            int shade = Shade(columns[i]);
            int from = i;
            while (i < Plot && Shade(columns[i]) == shade)
            {
                i++;
            }

            if (shade > 0)
            {
                _ = (shades[shade - 1] ??= new StringBuilder()).Append(FormattableString.Invariant($"M{from} 0h{i - from}"));
            }
        }

        for (int shade = 1; shade <= Shades; shade++)
        {
            if (shades[shade - 1] is { } data)
            {
                _ = _out.Raw($"<path class=\"s{shade}\" d=\"{data}\"/>");
            }
        }

        _ = _out.Raw("</g>\n");
    }

    // What is there at all is seen, however short; rounding errors are not there.
    private static int Shade(double share) => share <= 1e-9 ? 0 : Math.Min(Shades, 1 + (int)((share - 1e-9) * Shades));

    private void DrawNotKept(double top, double bottom)
    {
        if (_report.TimelineDropped == 0)
        {
            return;
        }

        long last = _timeline.Start;
        foreach (BlockedInterval interval in _report.Timeline)
        {
            last = Math.Max(last, interval.End);
        }

        double x = X(last);
        string text = FormattableString.Invariant($"from here {Count(_report.TimelineDropped)} intervals were not kept");
        if (Right - x >= 2)
        {
            _out.Rectangle(x, top, Right - x, bottom - top, "unknown", text);
        }

        _out.Text(Right, _y + 2, "muted end", FormattableString.Invariant($"{Count(_report.TimelineDropped)} later intervals were not kept: their time is in the figures, not in the lanes (TimelineCapacity)."));
        _y += 20;
    }
}
