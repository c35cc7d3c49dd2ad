namespace Postcopy.Uffd;

public sealed partial class BlocktimeTimeline
{
    /// <summary>
    /// Writes the picture as SVG: no script, nothing from elsewhere, light or dark as the viewer has it. Its size is
    /// bounded by its pixels: below 2 MB with 64 vCPUs, whatever the number of intervals.
    /// </summary>
    /// <param name="writer">Where to; stays open.</param>
    /// <exception cref="ArgumentNullException">The writer is null.</exception>
    public void WriteSvg(TextWriter writer)
    {
        ArgumentNullException.ThrowIfNull(writer);
        writer.Write("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        writer.Write(TimelinePicture.Draw(this, _title));
    }

    /// <summary>Writes one HTML page with the picture and a table of each vCPU's figures; like the picture it needs nothing else.</summary>
    /// <param name="writer">Where to, to be encoded as UTF-8; stays open.</param>
    /// <exception cref="ArgumentNullException">The writer is null.</exception>
    public void WriteHtml(TextWriter writer)
    {
        ArgumentNullException.ThrowIfNull(writer);
        PictureWriter page = new();
        _ = page.Raw("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n")
            .Raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n")
            .Raw("<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n")
            .Raw("<link rel=\"icon\" href=\"data:,\">\n")
            .Raw($"<title>{PictureWriter.Escape(_title)}</title>\n<style>").Raw(PictureStyle.Page).Raw("</style>\n</head>\n<body>\n")
            .Raw(TimelinePicture.Draw(this, _title));
        WriteTable(page);
        WriteNotes(page);
        writer.Write(page.Raw("</body>\n</html>\n").ToString());
    }

    private void WriteTable(PictureWriter page)
    {
        _ = page.Raw("<h2>Each vCPU</h2>\n<div class=\"scroll\"><table>\n<tr><th>vCPU</th><th>thread</th><th>blocked</th><th>link down</th><th>with all others</th><th>faults</th><th>mean</th><th>longest</th><th>unresolved</th></tr>\n");
        foreach (VcpuBlocktime vcpu in Report.Vcpus)
        {
            string name = PictureWriter.Escape(LaneName(vcpu)) + (vcpu.Removed ? " (removed)" : "");
            _ = page.Raw($"<tr><td>{name}</td><td>{vcpu.ThreadId}</td><td>{BlocktimeReport.Time(vcpu.BlocktimeNanoseconds)}</td><td>{BlocktimeReport.Time(vcpu.LinkDownNanoseconds)}</td><td>{BlocktimeReport.Time(vcpu.OverlapNanoseconds)}</td>")
                .Raw($"<td>{vcpu.Episodes}</td><td>{BlocktimeReport.Time(vcpu.MeanLatencyNanoseconds)}</td><td>{BlocktimeReport.Time(vcpu.MaxLatencyNanoseconds)}</td><td>{vcpu.Unresolved}</td></tr>\n");
        }

        _ = page.Raw("</table></div>\n");
    }

    private void WriteNotes(PictureWriter page)
    {
        if (Report.ErrorBoundNanoseconds > 0)
        {
            _ = page.Raw($"<p>The times can be wrong by up to {BlocktimeReport.Time(Report.ErrorBoundNanoseconds)}: records came late after a ring had been full.</p>\n");
        }

        if (Report.ReaderDelay.Count > 0)
        {
            _ = page.Raw($"<p>Reader's delay: mean {BlocktimeReport.Time(Report.ReaderDelay.MeanNanoseconds)}, at most {BlocktimeReport.Time(Report.ReaderDelay.MaxNanoseconds)} seen.</p>\n");
        }

        if (Report.OpenStalls.Count > 0)
        {
            _ = page.Raw($"<p>{Report.OpenStalls.Count} stalls were open at the reading.</p>\n");
        }
    }
}
