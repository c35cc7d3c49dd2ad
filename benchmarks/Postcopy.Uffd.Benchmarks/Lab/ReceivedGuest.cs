using System.Diagnostics;
using Postcopy.Uffd.Qemu;

namespace Postcopy.Uffd.Benchmarks.Lab;

/// <summary>A guest that came as a recorded stream, through QemuIncoming with bitmaps and blocktime on.</summary>
internal sealed class ReceivedGuest : IDisposable
{
    private readonly PostcopyDestination _destination;

    internal ReceivedGuest(RecordedStream stream, PlacerOptions placer)
    {
        _destination = new PostcopyDestination(new PostcopyOptions { Blocktime = new BlocktimeOptions(), Placer = placer });
        QemuIncoming incoming = new(_destination);
        long start = Stopwatch.GetTimestamp();
        bool played = false;
        CompletionReport report = incoming.RunAsync(Accept).GetAwaiter().GetResult();
        Time = Stopwatch.GetElapsedTime(start);
        Placement = report.Placement;
        incoming.DisposeAsync().AsTask().Wait();

        async ValueTask<MigrationChannel> Accept(CancellationToken cancellation)
        {
            if (!played)
            {
                played = true;
                return stream.Play();
            }

            await Task.Delay(Timeout.InfiniteTimeSpan, cancellation);
            throw new UnreachableException();
        }
    }

    /// <summary>From the first byte to the last page placed.</summary>
    internal TimeSpan Time { get; }

    internal PlacementStatistics Placement { get; }

    internal RamBlock Ram => _destination.Blocks.Blocks[0];

    public void Dispose()
    {
        _destination.CloseAsync(MissingPagePolicy.Fail).AsTask().Wait();
        foreach (RamBlock block in _destination.Blocks.Blocks)
        {
            block.Memory?.Dispose();
        }
    }
}
