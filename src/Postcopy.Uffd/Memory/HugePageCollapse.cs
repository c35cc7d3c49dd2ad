using System.Diagnostics;
using System.Runtime.InteropServices;
using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd;

/// <summary>
/// MADV_COLLAPSE (Linux 6.1), stretch by stretch: 0.7 to 3.8 ms each, in which running threads were seen to stand still for
/// up to 12 ms. So each call is measured, and followed by a pause that is a multiple of it.
/// </summary>
internal sealed class HugePageCollapse
{
    private const int StretchBytes = HugeStaging.Bytes;

    private static readonly TimeSpan s_longestPause = TimeSpan.FromSeconds(1);

    private readonly CollapseOptions _options;
    private CollapseReport _report = new();

    internal HugePageCollapse(CollapseOptions options)
    {
        options.Validate();
        _options = options;
    }

    internal async Task<CollapseReport> RunAsync(IEnumerable<AddressRange> ranges, CancellationToken cancellationToken)
    {
        long since = Stopwatch.GetTimestamp();
        foreach (AddressRange range in ranges)
        {
            nuint end = range.Start + range.Length;
            for (nuint at = (range.Start + StretchBytes - 1) & ~(nuint)(StretchBytes - 1); at + StretchBytes <= end; at += StretchBytes)
            {
                cancellationToken.ThrowIfCancellationRequested();
                TimeSpan busy = Collapse(at);
                if (busy > TimeSpan.Zero && _options.Share < 1)
                {
                    TimeSpan pause = TimeSpan.FromTicks((long)(busy.Ticks * ((1 / _options.Share) - 1)));
                    await Task.Delay(pause < s_longestPause ? pause : s_longestPause, cancellationToken).ConfigureAwait(false);
                }
            }
        }

        return _report with { Duration = Stopwatch.GetElapsedTime(since) };
    }

    private TimeSpan Collapse(nuint start)
    {
        if (PageTables.IsHuge(start, StretchBytes))
        {
            _report = _report with { Huge = _report.Huge + 1 };
            return TimeSpan.Zero;
        }

        if (PageTables.CountFilled(start, StretchBytes) < (StretchBytes >> PageSize.Host.Shift) - _options.MostZeroPages)
        {
            _report = _report with { Sparse = _report.Sparse + 1 };
            return TimeSpan.Zero;
        }

        long called = Stopwatch.GetTimestamp();
        int errno = Libc.madvise(start, StretchBytes, Libc.MADV_COLLAPSE) == 0 ? 0 : Marshal.GetLastPInvokeError();
        TimeSpan busy = Stopwatch.GetElapsedTime(called);
        _report = _report with
        {
            Collapsed = _report.Collapsed + (errno == 0 ? 1 : 0),
            Refused = _report.Refused + (errno == 0 ? 0 : 1),
            LastErrno = errno == 0 ? _report.LastErrno : errno,
            Busy = _report.Busy + busy,
            Longest = busy > _report.Longest ? busy : _report.Longest,
        };
        return busy;
    }
}
