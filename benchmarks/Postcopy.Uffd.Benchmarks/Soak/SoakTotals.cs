using System.Globalization;

namespace Postcopy.Uffd.Benchmarks.Soak;

/// <summary>What a soak has done so far; crosses a pipe as JSON, and stands in the result.</summary>
internal sealed record SoakTotals
{
    public double Seconds { get; init; }

    /// <summary>Pagefault messages of the kernel, repeated ones left out.</summary>
    public long Faults { get; init; }

    /// <summary>Messages that came again for a page that was asked for already.</summary>
    public long Duplicates { get; init; }

    public long PagesChecked { get; init; }

    public long PagesWrong { get; init; }

    /// <summary>Times the pages' source went away and another took over: links of a destination, connections of a migration.</summary>
    public long Recoveries { get; init; }

    public long Discards { get; init; }

    public long PagesDiscarded { get; init; }

    /// <summary>Whole migrations over QEMU's wire.</summary>
    public long Migrations { get; init; }

    /// <summary>Pages that a damaging network changed, and that were refused.</summary>
    public long PagesRefused { get; init; }

    /// <summary>Threads that the watchdog for stuck faults had to set going.</summary>
    public long StuckFaults { get; init; }

    public long Collections { get; init; }

    /// <summary>The longest that a touch took; a pause of the source counts.</summary>
    public double LongestTouchMilliseconds { get; init; }

    internal bool IsRight => PagesWrong == 0 && StuckFaults == 0;

    public override string ToString() => string.Create(CultureInfo.InvariantCulture,
        $"{Seconds,6:0} s  {Faults:N0} faults ({Faults / Math.Max(Seconds, 1):N0}/s)  {PagesChecked:N0} pages checked, {PagesWrong} wrong  {Recoveries} recoveries  {Discards:N0} discards  {Migrations} migrations, {PagesRefused} pages refused  {StuckFaults} stuck  longest touch {LongestTouchMilliseconds:0} ms");
}

/// <summary>The result as it is kept.</summary>
internal sealed record SoakResult
{
    public required string Verdict { get; init; }

    public required string Command { get; init; }

    public required SoakTotals Totals { get; init; }

    public required Compare.Machine Machine { get; init; }
}
