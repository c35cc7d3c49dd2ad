using System.Numerics;

namespace Postcopy.Uffd;

/// <summary>
/// Fault latencies: count, sum, extremes, QEMU's 24 power-of-two buckets in microseconds, and log-linear buckets
/// (32 to the octave, so a percentile is at most 1/32 above the truth).
/// </summary>
internal sealed class LatencyHistogram
{
    internal const int CoarseBuckets = 24;
    private const int SubBits = 5;
    private const int SubBuckets = 1 << SubBits;
    private const int FineBuckets = (64 - SubBits) * SubBuckets;

    private readonly long[] _coarse = new long[CoarseBuckets];
    private readonly long[] _fine = new long[FineBuckets];
    private long _count;
    private long _sum;
    private long _max;

    internal long Count => Volatile.Read(ref _count);

    internal long Sum => Volatile.Read(ref _sum);

    /// <summary>Adds one latency; one party at a time.</summary>
    internal void Add(long nanoseconds)
    {
        _count++;
        _sum += nanoseconds;
        _coarse[Coarse(nanoseconds)]++;
        _fine[Fine(nanoseconds)]++;
        _max = Math.Max(_max, nanoseconds);
    }

    /// <summary>Adds one latency from any thread; the figures agree with each other once all adders are done.</summary>
    internal void AddShared(long nanoseconds)
    {
        Interlocked.Increment(ref _fine[Fine(nanoseconds)]);
        Interlocked.Increment(ref _coarse[Coarse(nanoseconds)]);
        Interlocked.Add(ref _sum, nanoseconds);
        Interlocked.Increment(ref _count);
        long seen = Volatile.Read(ref _max);
        while (nanoseconds > seen)
        {
            long before = Interlocked.CompareExchange(ref _max, nanoseconds, seen);
            if (before == seen)
            {
                return;
            }

            seen = before;
        }
    }

    /// <summary>Adds what another histogram holds.</summary>
    internal void Merge(LatencyHistogram other)
    {
        for (int i = 0; i < _coarse.Length; i++)
        {
            _coarse[i] += Volatile.Read(ref other._coarse[i]);
        }

        for (int i = 0; i < _fine.Length; i++)
        {
            _fine[i] += Volatile.Read(ref other._fine[i]);
        }

        _count += other.Count;
        _sum += other.Sum;
        _max = Math.Max(_max, Volatile.Read(ref other._max));
    }

    internal LatencyHistogram Clone()
    {
        LatencyHistogram copy = new();
        copy.Merge(this);
        return copy;
    }

    internal LatencySummary Summarize() =>
        new(_count, _sum, _count == 0 ? 0 : _sum / _count, Percentile(0.50), Percentile(0.90), Percentile(0.99), _max, (long[])_coarse.Clone());

    /// <summary>QEMU's bucket: n holds [2^n, 2^(n+1)) us, bucket 0 also what is shorter, bucket 23 all that is longer.</summary>
    internal static int Coarse(long nanoseconds)
    {
        long microseconds = nanoseconds / 1000;
        return microseconds <= 1 ? 0 : Math.Min(CoarseBuckets - 1, BitOperations.Log2((ulong)microseconds));
    }

    private static int Fine(long nanoseconds)
    {
        if (nanoseconds < SubBuckets)
        {
            return (int)nanoseconds;
        }

        int exponent = BitOperations.Log2((ulong)nanoseconds) - SubBits;
        return ((exponent + 1) << SubBits) + (int)((nanoseconds >> exponent) - SubBuckets);
    }

    // The largest latency that falls into the bucket.
    private static long FineUpper(int bucket)
    {
        if (bucket < SubBuckets)
        {
            return bucket;
        }

        int exponent = (bucket >> SubBits) - 1;
        long lower = (long)(SubBuckets + (bucket & (SubBuckets - 1))) << exponent;
        return lower + ((1L << exponent) - 1);
    }

    private long Percentile(double fraction)
    {
        long rank = (long)Math.Ceiling(_count * fraction);
        long seen = 0;
        for (int i = 0; i < _fine.Length && rank > 0; i++)
        {
            seen += _fine[i];
            if (seen >= rank)
            {
                return Math.Min(FineUpper(i), _max);
            }
        }

        return _max;
    }
}
