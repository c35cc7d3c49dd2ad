namespace Postcopy.Uffd;

/// <summary>Colours for light and dark, chosen by the viewer's own setting; the fonts are the viewer's too.</summary>
internal static class PictureStyle
{
    internal const string Colours = """
        --bg:#ffffff;--text:#1f2328;--muted:#59636e;--grid:#d8dee4;--base:#8c959f;--track:#f0f2f5;--blocked:#bc4c00;--overlap:#a8074f;--rate:#0969da;--latency:#6639ba
        """;

    internal const string DarkColours = """
        --bg:#0d1117;--text:#e6edf3;--muted:#9198a1;--grid:#2a313a;--base:#656c76;--track:#161b22;--blocked:#f0883e;--overlap:#ff6fa3;--rate:#58a6ff;--latency:#bc8cff
        """;

    internal const string Svg = ".pcu{background:var(--bg);" + Colours + "}@media(prefers-color-scheme:dark){.pcu{" + DarkColours + "}}" + """

        .pcu text{font:12px system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif;fill:var(--text)}
        .pcu .title{font-size:20px;font-weight:600}.pcu .heading{font-size:15px;font-weight:600}.pcu .figure{font-size:21px;font-weight:600}
        .pcu .muted,.pcu .axis{fill:var(--muted)}.pcu .axis{font-size:11px}.pcu .small{font-size:9.5px}.pcu .strong{font-weight:600}
        .pcu .end{text-anchor:end}.pcu .mid{text-anchor:middle}
        .pcu .value{font-variant-numeric:tabular-nums}
        .pcu .bg{fill:var(--bg)}.pcu .grid{stroke:var(--grid);fill:none}.pcu .base{stroke:var(--base);fill:none}
        .pcu .lane path{fill:none;shape-rendering:crispEdges}.pcu .lane .track{stroke:var(--track);stroke-opacity:.75}
        .pcu .blocked{fill:var(--blocked);stroke:var(--blocked)}.pcu .overlap{fill:var(--overlap);stroke:var(--overlap)}
        .pcu rect.blocked,.pcu rect.overlap{stroke:none}.pcu .band{fill:var(--overlap);fill-opacity:.14}
        .pcu .s1{stroke-opacity:.3}.pcu .s2{stroke-opacity:.55}.pcu .s3{stroke-opacity:.78}
        .pcu .f1{fill-opacity:.3}.pcu .f2{fill-opacity:.55}.pcu .f3{fill-opacity:.78}
        .pcu .unknown{fill:var(--muted);fill-opacity:.18}
        .pcu .area{fill:var(--rate);fill-opacity:.18}.pcu .line{fill:none;stroke:var(--rate);stroke-width:1.4}.pcu .latency{fill:var(--latency);fill-opacity:.85}

        """;

    internal const string Page = ":root{color-scheme:light dark;" + Colours + "}@media(prefers-color-scheme:dark){:root{" + DarkColours + "}}" + """

        body{margin:0 auto;max-width:1160px;padding:8px;background:var(--bg);color:var(--text);font:14px/1.5 system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif}
        svg{max-width:100%;height:auto;display:block}
        h2{font-size:15px;margin:24px 24px 8px}p{margin:0 24px 8px;color:var(--muted)}
        .scroll{overflow-x:auto;margin:0 24px 32px}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
        th,td{padding:3px 14px 3px 0;text-align:right;border-bottom:1px solid var(--grid);white-space:nowrap}
        th{color:var(--muted);font-weight:600}th:first-child,td:first-child{text-align:left}

        """;
}
