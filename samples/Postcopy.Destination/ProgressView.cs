using System.Diagnostics;
using System.Globalization;
using Postcopy.Uffd;
using Postcopy.Uffd.Qemu;

namespace Postcopy.Destination;

/// <summary>Turns counters into what a person wants to know: how far, how fast, how long still.</summary>
internal sealed class ProgressView
{
    // The rate is smoothed over about this many updates.
    private const double Smoothing = 0.3;

    private readonly PostcopyDestination _destination;
    private readonly QemuIncoming _incoming;
    private long _lastBytes;
    private long _lastAt = Stopwatch.GetTimestamp();
    private double _rate;
    private string _text = string.Empty;

    internal ProgressView(PostcopyDestination destination, QemuIncoming incoming)
    {
        _destination = destination;
        _incoming = incoming;
    }

    /// <summary>Share of the guest's memory that is here, 0 to 1.</summary>
    internal double Fraction { get; private set; }

    /// <summary>Bytes of the guest's memory, and those of them that are here.</summary>
    internal long Total { get; private set; }

    internal long Here { get; private set; }

    /// <summary>The tracker's figures at the last update; null when blocktime is off.</summary>
    internal BlocktimeReport? Report { get; private set; }

    internal string Text() => _text;

    internal void Update()
    {
        long total = _destination.Blocks.TotalLength;
        long here = total - _destination.Blocks.MissingBytes;
        double seconds = Stopwatch.GetElapsedTime(_lastAt).TotalSeconds;
        _lastAt = Stopwatch.GetTimestamp();
        double now = Math.Max(0, here - _lastBytes) / Math.Max(seconds, 0.001);
        _rate = _rate == 0 ? now : ((1 - Smoothing) * _rate) + (Smoothing * now);
        _lastBytes = here;
        (Total, Here) = (total, here);
        Fraction = total == 0 ? 0 : (double)here / total;
        string eta = _rate > 0 ? Duration((total - here) / _rate) : "-";
        Report = _destination.Blocktime?.Snapshot(_destination.Blocktime.Now(), timeline: false);

        // A vCPU that runs on may have a stall behind it that nobody closed yet, beside the one that it is in.
        int blocked = Report?.OpenStalls.Where(s => s.Slot >= 0).DistinctBy(s => s.Slot).Count() ?? 0;
        long pages = _destination.Blocks.Blocks.Sum(b => b.PageCount);
        long missing = _destination.Blocks.Blocks.Sum(b => b.MissingPages);
        _text = string.Create(CultureInfo.InvariantCulture,
            $"{pages - missing} of {pages} pages, {Quantity.Bytes(_rate)}/s, {_destination.Faults.Requests} faults, {blocked}/{Report?.Vcpus.Count ?? 0} blocked, ETA {eta}");
    }

    /// <summary>One line for logs and pipes; null before the source has named its memory.</summary>
    internal string? Line()
    {
        Update();
        long total = _destination.Blocks.TotalLength;
        return total == 0 ? null : string.Create(CultureInfo.InvariantCulture,
            $"{_destination.State.ToString().ToLowerInvariant()}: {Fraction * 100:0}% of {Quantity.Bytes(total)}, {_text}");
    }

    private static string Duration(double seconds) =>
        seconds < 100 ? string.Create(CultureInfo.InvariantCulture, $"{seconds:0} s") : TimeSpan.FromSeconds(seconds).ToString(@"h\:mm\:ss", CultureInfo.InvariantCulture);
}
