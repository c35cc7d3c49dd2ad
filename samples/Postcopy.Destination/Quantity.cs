using System.Globalization;

namespace Postcopy.Destination;

/// <summary>Sizes and rates as people write them: 256M, 1GiB, 50MB/s. K, M and G are powers of 1024, KB, MB and GB of 1000.</summary>
internal static class Quantity
{
    private static readonly (string Suffix, long Factor)[] s_units =
    [
        ("kib", 1L << 10), ("mib", 1L << 20), ("gib", 1L << 30), ("tib", 1L << 40),
        ("kb", 1000), ("mb", 1000_000), ("gb", 1000_000_000), ("tb", 1000_000_000_000),
        ("k", 1L << 10), ("m", 1L << 20), ("g", 1L << 30), ("t", 1L << 40), ("b", 1), (string.Empty, 1),
    ];

    internal static bool TryParse(string text, out long bytes)
    {
        bytes = 0;
        string lower = text.Trim().ToLowerInvariant();
        foreach ((string suffix, long factor) in s_units)
        {
            if (lower.EndsWith(suffix, StringComparison.Ordinal))
            {
                bool number = decimal.TryParse(lower.AsSpan(0, lower.Length - suffix.Length), NumberStyles.AllowDecimalPoint,
                    CultureInfo.InvariantCulture, out decimal value);
                if (!number || value > long.MaxValue / factor)
                {
                    return false;
                }

                bytes = (long)(value * factor);
                return true;
            }
        }

        return false;
    }

    internal static string Bytes(double bytes) => bytes switch
    {
        >= 1L << 30 => string.Create(CultureInfo.InvariantCulture, $"{bytes / (1L << 30):0.00} GiB"),
        >= 1L << 20 => string.Create(CultureInfo.InvariantCulture, $"{bytes / (1L << 20):0.0} MiB"),
        _ => string.Create(CultureInfo.InvariantCulture, $"{bytes / 1024:0} KiB"),
    };
}
