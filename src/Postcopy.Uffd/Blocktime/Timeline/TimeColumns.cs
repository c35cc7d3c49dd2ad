namespace Postcopy.Uffd;

/// <summary>
/// Time cut into equal columns, and how much of each is covered: what makes a million intervals as small as a hundred.
/// </summary>
internal sealed class TimeColumns
{
    private readonly long _start;
    private readonly double _width;
    private readonly double[] _sums;

    internal TimeColumns(long start, long end, int count)
    {
        _start = start;
        _width = (double)(end - start) / count;
        _sums = new double[count];
    }

    internal int Count => _sums.Length;

    /// <summary>The length of a column in nanoseconds.</summary>
    internal double Width => _width;

    /// <summary>The share of the column that is covered, or the mean of the weights over it.</summary>
    internal double this[int column] => _sums[column] / _width;

    /// <summary>Covers an interval, with a weight.</summary>
    internal void Add(long from, long to, double weight = 1)
    {
        double low = Math.Max(0, from - _start) / _width;
        double high = Math.Min(Count, (to - _start) / _width);
        for (int i = (int)low; i < Count && i < high; i++)
        {
            _sums[i] += (Math.Min(high, i + 1) - Math.Max(low, i)) * _width * weight;
        }
    }
}
