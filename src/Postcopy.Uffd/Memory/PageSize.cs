using System.Numerics;

namespace Postcopy.Uffd;

/// <summary>A page size: a power of two, and the arithmetic on it.</summary>
public readonly record struct PageSize
{
    private readonly byte _shift;

    /// <summary>Makes a page size.</summary>
    /// <param name="bytes">A power of two from 4096 to 16 GiB.</param>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="bytes"/> is something else.</exception>
    public PageSize(long bytes)
    {
        if (bytes is < 4096 or > 1L << 34 || !BitOperations.IsPow2(bytes))
        {
            throw new ArgumentOutOfRangeException(nameof(bytes), bytes, "A page size is a power of two from 4096 bytes to 16 GiB.");
        }

        _shift = (byte)BitOperations.TrailingZeroCount(bytes);
    }

    /// <summary>The page size of this host, asked from the system.</summary>
    public static PageSize Host { get; private set; } = new(Environment.SystemPageSize);

    /// <summary>2 MiB: the huge page of x64, and of arm64 with 4 KiB pages.</summary>
    public static PageSize TwoMiB { get; } = new(2L << 20);

    /// <summary>1 GiB.</summary>
    public static PageSize OneGiB { get; } = new(1L << 30);

    /// <summary>Bytes of a page.</summary>
    public long Bytes => 1L << _shift;

    /// <summary>Binary logarithm of <see cref="Bytes"/>.</summary>
    public int Shift => _shift;

    /// <summary>True when <paramref name="value"/> is a multiple of the page size.</summary>
    /// <param name="value">An offset or length in bytes.</param>
    public bool IsAligned(long value) => (value & (Bytes - 1)) == 0;

    /// <summary>True when <paramref name="address"/> is a multiple of the page size.</summary>
    /// <param name="address">An address.</param>
    public bool IsAligned(nuint address) => (address & (nuint)(Bytes - 1)) == 0;

    /// <summary>The page that <paramref name="offset"/> lies in.</summary>
    /// <param name="offset">Bytes, not negative.</param>
    public long IndexOf(long offset) => offset >> _shift;

    /// <summary>The next lower multiple.</summary>
    /// <param name="value">Bytes.</param>
    public long AlignDown(long value) => value & ~(Bytes - 1);

    /// <summary>The next higher multiple.</summary>
    /// <param name="value">Bytes.</param>
    public long AlignUp(long value) => checked(value + Bytes - 1) & ~(Bytes - 1);

    /// <summary>The start of the page that <paramref name="address"/> lies in.</summary>
    /// <param name="address">An address.</param>
    public nuint AlignDown(nuint address) => address & ~(nuint)(Bytes - 1);

    /// <summary>
    /// For tests, in a process of their own and before anything else: what runs on the simulated kernel runs as on a host
    /// with larger pages, such as arm64 with 16 or 64 KiB.
    /// </summary>
    internal static void SimulateHost(PageSize size) => Host = size;

    /// <summary>The size as people write it: 4 KiB, 2 MiB, 1 GiB.</summary>
    public override string ToString() => _shift switch
    {
        >= 30 => $"{Bytes >> 30} GiB",
        >= 20 => $"{Bytes >> 20} MiB",
        _ => $"{Bytes >> 10} KiB",
    };
}
