namespace Postcopy.Uffd;

/// <summary>How long faults took, from reading the message to the wake.</summary>
public sealed class LatencySummary
{
    internal LatencySummary(long count, long sum, long mean, long p50, long p90, long p99, long max, long[] distribution)
    {
        Count = count;
        SumNanoseconds = sum;
        MeanNanoseconds = mean;
        P50Nanoseconds = p50;
        P90Nanoseconds = p90;
        P99Nanoseconds = p99;
        MaxNanoseconds = max;
        Distribution = Array.AsReadOnly(distribution);
    }

    /// <summary>How many episodes are over; unresolved ones have no latency.</summary>
    public long Count { get; }

    /// <summary>All of them added up.</summary>
    public long SumNanoseconds { get; }

    /// <summary>The mean, 0 without episodes.</summary>
    public long MeanNanoseconds { get; }

    /// <summary>The median, at most 1/32 above the truth.</summary>
    public long P50Nanoseconds { get; }

    /// <summary>Nine of ten were at most this long; at most 1/32 above the truth.</summary>
    public long P90Nanoseconds { get; }

    /// <summary>99 of 100 were at most this long; at most 1/32 above the truth.</summary>
    public long P99Nanoseconds { get; }

    /// <summary>The longest, exactly.</summary>
    public long MaxNanoseconds { get; }

    /// <summary>QEMU's 24 counts: bucket n holds [2^n, 2^(n+1)) us, bucket 0 also what is shorter, bucket 23 all that is longer.</summary>
    public IReadOnlyList<long> Distribution { get; }
}
