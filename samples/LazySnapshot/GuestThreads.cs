using System.Diagnostics;
using Postcopy.Destination;
using Postcopy.Uffd;

namespace LazySnapshot;

/// <summary>
/// Stand-ins for vCPUs: each touches its share of a working set, in a seeded random order, in preemptive mode, and
/// compares what it saw.
/// </summary>
internal sealed class GuestThreads
{
    private readonly GuestMemory _memory;
    private readonly BlocktimeTracker _blocktime;
    private readonly RestoreOptions _options;
    private readonly SeededContent? _content;
    private readonly TaskCompletionSource _done = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private long _touches;
    private long _wrong;
    private int _running;

    internal GuestThreads(GuestMemory memory, BlocktimeTracker blocktime, RestoreOptions options)
    {
        _memory = memory;
        _blocktime = blocktime;
        _options = options;
        _content = options.Check ? new SeededContent(options.Seed) : null;
    }

    internal long Touches => Volatile.Read(ref _touches);

    internal long Wrong => Volatile.Read(ref _wrong);

    internal bool HasEnded => Volatile.Read(ref _running) == 0;

    internal Task RunAsync()
    {
        long[] pages = new long[_memory.Length / SeededContent.PageBytes];
        for (int i = 0; i < pages.Length; i++)
        {
            pages[i] = i;
        }

        // The same seed touches the same pages in the same order: what a recorded working set is good for.
        new Random(unchecked((int)_options.Seed)).Shuffle(pages);
        int touched = (int)(pages.LongLength * _options.TouchPercent / 100);
        if (_options.Vcpus == 0)
        {
            return Task.CompletedTask;
        }

        _running = _options.Vcpus;
        for (int i = 0; i < _options.Vcpus; i++)
        {
            int index = i;
            new Thread(() => Touch(pages.AsSpan(0, touched), index)) { IsBackground = true, Name = $"vcpu {i}" }.Start();
        }

        return _done.Task;
    }

    private void Touch(ReadOnlySpan<long> pages, int index)
    {
        _ = _blocktime.AddVcpu(HostThread.CurrentId);
        byte[] expected = new byte[SeededContent.PageBytes];
        Span<byte> seen = stackalloc byte[64];
        for (int i = index; i < pages.Length; i += _options.Vcpus)
        {
            long offset = pages[i] * SeededContent.PageBytes;
            _memory.Read(offset, seen);
            _ = Interlocked.Increment(ref _touches);
            if (_content is not null)
            {
                _content.Fill(0, offset, expected);
                if (!seen.SequenceEqual(expected.AsSpan(0, seen.Length)))
                {
                    _ = Interlocked.Increment(ref _wrong);
                }
            }

            long next = Stopwatch.GetTimestamp() + (long)(_options.Pace.TotalSeconds * Stopwatch.Frequency);
            while (Stopwatch.GetTimestamp() < next)
            {
                _ = Thread.Yield();
            }
        }

        if (Interlocked.Decrement(ref _running) == 0)
        {
            _done.SetResult();
        }
    }
}
