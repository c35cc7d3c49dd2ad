using System.Diagnostics;

namespace Postcopy.Uffd.Benchmarks.Lab;

/// <summary>A thread that allocates a gigabyte a second, a part of which survives a while: work for the collector.</summary>
internal sealed class Allocator : IDisposable
{
    private const long BytesPerSecond = 1_000_000_000;
    private const int Piece = 8 << 10;
    private const int PiecesPerPause = 128;

    private readonly Thread _thread;
    private readonly int _collections = Collections();
    private readonly TimeSpan _paused = GC.GetTotalPauseDuration();
    private readonly long _start = Stopwatch.GetTimestamp();
    private long _bytes;
    private volatile bool _stop;

    internal Allocator()
    {
        _thread = new Thread(Main) { IsBackground = true, Name = "lab allocator" };
        _thread.Start();
    }

    internal double GigabytesPerSecond => Volatile.Read(ref _bytes) / 1e9 / Stopwatch.GetElapsedTime(_start).TotalSeconds;

    internal int CollectionsSinceStart => Collections() - _collections;

    internal TimeSpan PausedSinceStart => GC.GetTotalPauseDuration() - _paused;

    public void Dispose()
    {
        _stop = true;
        _thread.Join();
    }

    private static int Collections() => GC.CollectionCount(0);

    private void Main()
    {
        byte[][] survivors = new byte[4096][];
        int next = 0;
        while (!_stop)
        {
            for (int i = 0; i < PiecesPerPause; i++)
            {
                byte[] piece = new byte[Piece];
                if (i % 4 == 0)
                {
                    survivors[next++ & (survivors.Length - 1)] = piece;
                }
            }

            _bytes += (long)Piece * PiecesPerPause;
            TimeSpan ahead = TimeSpan.FromSeconds((double)_bytes / BytesPerSecond) - Stopwatch.GetElapsedTime(_start);
            if (ahead > TimeSpan.FromMilliseconds(1))
            {
                Thread.Sleep(ahead);
            }
        }
    }
}
