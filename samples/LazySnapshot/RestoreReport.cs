using System.Globalization;
using Postcopy.Destination;

namespace LazySnapshot;

/// <summary>What a restore was like.</summary>
internal sealed record RestoreReport
{
    internal required long ImageBytes { get; init; }

    /// <summary>From the start until the stand-ins had touched all they wanted.</summary>
    internal required TimeSpan Touched { get; init; }

    internal required TimeSpan Total { get; init; }

    internal required long Touches { get; init; }

    internal required long WrongTouches { get; init; }

    /// <summary>Pages that a vCPU had to wait for and that were asked for.</summary>
    internal required long Requests { get; init; }

    /// <summary>Pages fetched that nobody waited for.</summary>
    internal required long ReadAheadPages { get; init; }

    /// <summary>Bytes that were there when the touches ended.</summary>
    internal required long PresentBytes { get; init; }

    internal required long Retries { get; init; }

    /// <summary>Time in which all stand-ins waited at once.</summary>
    internal required TimeSpan StoodStill { get; init; }

    internal required IReadOnlyList<TimeSpan> PerVcpu { get; init; }

    internal required bool Complete { get; init; }

    internal void Write(TextWriter to)
    {
        Line(to, $"touches: {Touches} in {Touched.TotalSeconds:0.00} s, {(WrongTouches == 0 ? "each saw the right content" : $"{WrongTouches} saw WRONG content")}");
        Line(to, $"faults: {Requests} pages asked for, {ReadAheadPages} fetched ahead, {Quantity.Bytes(PresentBytes)} of {Quantity.Bytes(ImageBytes)} there when the touches ended");
        Line(to, $"blocktime: all vCPUs {StoodStill.TotalMilliseconds:0.0} ms; each {string.Join(", ", PerVcpu.Select(v => string.Create(CultureInfo.InvariantCulture, $"{v.TotalMilliseconds:0.0}")))} ms");
        if (Retries > 0)
        {
            Line(to, $"store: {Retries} reads were tried again");
        }

        Line(to, Complete ? $"complete after {Total.TotalSeconds:0.00} s" : "not complete: what was not touched was not fetched");
    }

    private static void Line(TextWriter to, FormattableString text) => to.WriteLine(text.ToString(CultureInfo.InvariantCulture));

    private static void Line(TextWriter to, string text) => to.WriteLine(text);
}
