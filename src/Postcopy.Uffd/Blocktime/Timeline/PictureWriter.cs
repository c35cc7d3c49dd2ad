using System.Globalization;
using System.Text;

namespace Postcopy.Uffd;

/// <summary>SVG elements into text: numbers are invariant and short, and every name from outside is escaped.</summary>
internal sealed class PictureWriter
{
    private readonly StringBuilder _text = new();

    public override string ToString() => _text.ToString();

    internal static string Escape(string text)
    {
        StringBuilder escaped = new(text.Length);
        foreach (char c in text)
        {
            // XML has no character below a space but white space, and no half of a surrogate pair.
            _ = c switch
            {
                '&' => escaped.Append("&amp;"),
                '<' => escaped.Append("&lt;"),
                '>' => escaped.Append("&gt;"),
                '"' => escaped.Append("&quot;"),
                '\'' => escaped.Append("&#39;"),
                < ' ' or '\u007f' or >= '\ufffe' => escaped.Append(' '),
                _ when char.IsSurrogate(c) => escaped.Append('?'),
                _ => escaped.Append(c),
            };
        }

        return escaped.ToString();
    }

    internal static string Shorten(string text, int limit) => text.Length <= limit ? text : text.Substring(0, limit - 3) + "...";

    internal static string Number(double value) => Math.Round(value, 2).ToString("0.##", CultureInfo.InvariantCulture);

    /// <summary>Markup as it is; what is inserted must be safe.</summary>
    internal PictureWriter Raw(FormattableString markup)
    {
        _ = _text.Append(markup.ToString(CultureInfo.InvariantCulture));
        return this;
    }

    internal PictureWriter Raw(string markup)
    {
        _ = _text.Append(markup);
        return this;
    }

    internal void Text(double x, double y, string style, string text) =>
        Raw($"<text x=\"{Number(x)}\" y=\"{Number(y)}\" class=\"{style}\">{Escape(text)}</text>\n");

    internal void Rectangle(double x, double y, double width, double height, string style, string? title = null)
    {
        _ = Raw($"<rect x=\"{Number(x)}\" y=\"{Number(y)}\" width=\"{Number(width)}\" height=\"{Number(height)}\" class=\"{style}\"");
        _ = title is null ? Raw("/>\n") : Raw($"><title>{Escape(title)}</title></rect>\n");
    }

    internal void Path(string style, string data) => Raw($"<path class=\"{style}\" d=\"{data}\"/>\n");

    internal void VerticalLine(double x, double from, double to, string style) =>
        Path(style, FormattableString.Invariant($"M{Number(x)} {Number(from)}V{Number(to)}"));

    internal void HorizontalLine(double from, double to, double y, string style) =>
        Path(style, FormattableString.Invariant($"M{Number(from)} {Number(y)}H{Number(to)}"));
}
