using System.Globalization;
using System.Text;

namespace Postcopy.Uffd;

internal sealed partial class TimelinePicture
{
    private const double ChartHeight = 120;
    private const int FewestBuckets = 6;

    private void DrawRate()
    {
        IReadOnlyList<PlacementSample> samples = _timeline.Placement;
        TimeColumns columns = Columns();
        for (int i = 1; i < samples.Count; i++)
        {
            double rate = (samples[i].Bytes - samples[i - 1].Bytes) * 1e9 / (samples[i].At - samples[i - 1].At);
            columns.Add(samples[i - 1].At, samples[i].At, rate);
        }

        double most = 0;
        for (int i = 0; i < columns.Count; i++)
        {
            most = Math.Max(most, columns[i]);
        }

        Heading("Placement rate", samples.Count < 2 ? "not sampled" : "bytes placed a second, at most " + Bytes(most) + "/s");
        double top = _y + 6;
        double bottom = top + ChartHeight;
        PictureScale scale = PictureScale.Rate(most);
        DrawTimeAxis(top, bottom);
        DrawValueAxis(scale, top, bottom);
        if (samples.Count >= 2)
        {
            string line = Steps(columns, scale.Top, bottom);
            _out.Path("rate area", line + FormattableString.Invariant($"V{PictureWriter.Number(bottom)}H{Left}z"));
            _out.Path("rate line", line);
        }

        _y = bottom + 60;
    }

    private static string Steps(TimeColumns columns, double most, double bottom)
    {
        StringBuilder data = new();
        string? before = null;
        for (int i = 0; i < columns.Count; i++)
        {
            string y = PictureWriter.Number(Math.Round(bottom - (columns[i] / most * ChartHeight), 1));
            if (y != before)
            {
                _ = data.Append(before is null ? FormattableString.Invariant($"M{Left} {y}") : FormattableString.Invariant($"H{Left + i}V{y}"));
                before = y;
            }
        }

        return data.Append(FormattableString.Invariant($"H{Left + columns.Count}")).ToString();
    }

    private void DrawLatency()
    {
        LatencySummary latency = _report.VcpuLatency;
        (int first, int last) = FilledBuckets(latency.Distribution);
        long most = 0;
        foreach (long count in latency.Distribution)
        {
            most = Math.Max(most, count);
        }

        Heading("Fault latency of the vCPUs", latency.Count == 0 ? "no fault is over" : FormattableString.Invariant(
            $"{Plural(latency.Count, "fault")}: 50 % within {BlocktimeReport.Time(latency.P50Nanoseconds)}, 90 % {BlocktimeReport.Time(latency.P90Nanoseconds)}, 99 % {BlocktimeReport.Time(latency.P99Nanoseconds)}"));
        double top = _y + 20;
        double bottom = top + ChartHeight;
        PictureScale scale = PictureScale.Count(most);
        DrawValueAxis(scale, top, bottom);
        double step = (double)Plot / (last - first + 1);
        int every = step < 50 ? 2 : 1;
        for (int i = first; i <= last + 1; i++)
        {
            double x = Left + ((i - first) * step);
            _out.VerticalLine(x, bottom, bottom + 4, "grid");
            if ((i - first) % every == 0)
            {
                _out.Text(x, bottom + 17, "axis mid", BucketEdge(i, latency.Distribution.Count));
            }
        }

        for (int i = first; i <= last; i++)
        {
            DrawBucket(i, Left + ((i - first) * step), step, latency.Distribution[i], scale.Top, bottom);
        }

        _out.Text(Left - 8, top - 12, "axis end", "faults");
        _y = bottom + 34;
    }

    private void DrawBucket(int bucket, double x, double step, long count, double most, double bottom)
    {
        if (count == 0)
        {
            return;
        }

        double height = Math.Max(1, count / most * ChartHeight);
        string title = FormattableString.Invariant($"{BucketEdge(bucket, int.MaxValue)} to {BucketEdge(bucket + 1, int.MaxValue)}: {Plural(count, "fault")}");
        _out.Rectangle(x + 1, bottom - height, step - 2, height, "latency", title);
        _out.Text(x + (step / 2), bottom - height - 5, "axis mid", Short(count));
    }

    // A margin on both sides, and never so few that a bar becomes a wall.
    private static (int First, int Last) FilledBuckets(IReadOnlyList<long> counts)
    {
        int first = 0;
        int last = counts.Count - 1;
        while (first < last && counts[first] == 0)
        {
            first++;
        }

        while (last > first && counts[last] == 0)
        {
            last--;
        }

        first = Math.Max(0, first - 1);
        last = Math.Min(counts.Count - 1, last + 1);
        last = Math.Min(counts.Count - 1, Math.Max(last, first + FewestBuckets - 1));
        return (Math.Min(first, last - FewestBuckets + 1), last);
    }

    // Buckets are powers of two in microseconds; the first holds all that is shorter, the last all that is longer.
    private static string BucketEdge(int bucket, int beyond)
    {
        if (bucket == 0)
        {
            return "0";
        }

        if (bucket == beyond)
        {
            return "more";
        }

        double microseconds = Math.Pow(2, bucket);
        (double value, string unit) = microseconds < 1000 ? (microseconds, "us") : microseconds < 1e6 ? (microseconds / 1e3, "ms") : (microseconds / 1e6, "s");
        return value.ToString(unit == "us" || value >= 10 ? "0" : "0.0", CultureInfo.InvariantCulture) + " " + unit;
    }
}
