using System.Globalization;

namespace Postcopy.Uffd;

/// <summary>An axis from 0 with few, round marks in a unit that people read.</summary>
internal readonly struct PictureScale
{
    private static readonly (double Size, string Unit)[] s_times = [(1e9, "s"), (1e6, "ms"), (1e3, "us"), (1, "ns")];
    private static readonly (double Size, string Unit)[] s_rates = [(1 << 30, "GiB/s"), (1 << 20, "MiB/s"), (1 << 10, "KiB/s"), (1, "B/s")];
    private static readonly (double Size, string Unit)[] s_counts = [(1e6, "M"), (1e3, "k"), (1, "")];

    private readonly double _size;

    private PictureScale(double most, int marks, (double Size, string Unit)[] units)
    {
        Most = Math.Max(most, units[units.Length - 1].Size);
        int unit = 0;
        while (unit < units.Length - 1 && Most < units[unit].Size)
        {
            unit++;
        }

        (_size, Unit) = units[unit];
        double rough = Most / _size / marks;
        double power = Math.Pow(10, Math.Floor(Math.Log10(rough)));
        double step = rough / power;
        Step = (step <= 1 ? 1 : step <= 2 ? 2 : step <= 5 ? 5 : 10) * power * _size;
    }

    /// <summary>The largest value.</summary>
    internal double Most { get; }

    /// <summary>From one mark to the next.</summary>
    internal double Step { get; }

    internal string Unit { get; }

    /// <summary>The first mark at or above the largest value: the top of a chart.</summary>
    internal double Top => Math.Ceiling(Math.Round(Most / Step, 6)) * Step;

    internal static PictureScale Time(double nanoseconds) => new(nanoseconds, 10, s_times);

    internal static PictureScale Rate(double bytesPerSecond) => new(bytesPerSecond, 4, s_rates);

    internal static PictureScale Count(double count)
    {
        PictureScale scale = new(count, 4, s_counts);
        return scale.Step >= 1 ? scale : new PictureScale(4, 4, s_counts);
    }

    /// <summary>The value in the axis' unit.</summary>
    internal string Label(double value)
    {
        if (value == 0 && Unit.Length <= 1 && Unit != "s")
        {
            return "0";
        }

        string number = Math.Round(value / _size, 6).ToString("0.######", CultureInfo.InvariantCulture);
        return Unit.Length == 0 ? number : Unit.Length == 1 && Unit != "s" ? number + Unit : number + " " + Unit;
    }
}
