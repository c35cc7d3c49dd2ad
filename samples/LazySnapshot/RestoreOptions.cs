namespace LazySnapshot;

/// <summary>How an image is restored.</summary>
internal sealed record RestoreOptions
{
    /// <summary>Stand-ins for vCPUs; each touches its own working set.</summary>
    internal int Vcpus { get; init; } = 2;

    /// <summary>Percent of the image that is touched.</summary>
    internal int TouchPercent { get; init; } = 25;

    /// <summary>Bytes fetched around a missing page, a power of two from 4 KiB.</summary>
    internal int Readahead { get; init; } = 64 << 10;

    /// <summary>Threads that fetch pages that vCPUs wait for.</summary>
    internal int Fetchers { get; init; } = 4;

    /// <summary>Fetch what was not touched, too, and so end with a complete guest.</summary>
    internal bool Fill { get; init; } = true;

    /// <summary>Time between two touches of a stand-in.</summary>
    internal TimeSpan Pace { get; init; }

    internal string? Record { get; init; }

    internal string? Replay { get; init; }

    internal string? HashFile { get; init; }

    /// <summary>Seed of the order of touches, and of the content if <see cref="Check"/>.</summary>
    internal long Seed { get; init; } = 1;

    /// <summary>The image was made by <c>capture</c> with the same seed: compare every touch.</summary>
    internal bool Check { get; init; }
}
