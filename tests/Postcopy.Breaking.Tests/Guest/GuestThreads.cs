using Postcopy.Uffd;

namespace Postcopy.Breaking.Tests;

/// <summary>vCPUs: threads that read every page in an order of their own, in native calls, and check what they read.</summary>
internal sealed class GuestThreads
{
    private readonly (RamBlock Block, long Offset)[] _pages;
    private readonly Thread[] _threads;
    private long _touched;
    private string? _wrong;

    internal GuestThreads(IEnumerable<RamBlock> blocks, int count, int seed = 0, int stackBytes = 256 << 10)
    {
        _pages = [.. blocks.SelectMany(b => Enumerable.Range(0, (int)(b.UsedLength / TestPages.Bytes)).Select(p => (b, (long)p * TestPages.Bytes)))];
        _threads = [.. Enumerable.Range(0, count).Select(i => new Thread(() => Run(seed + i), stackBytes) { IsBackground = true, Name = $"vcpu {i}" })];
        Array.ForEach(_threads, t => t.Start());
    }

    internal long Touched => Interlocked.Read(ref _touched);

    /// <summary>Waits for all; throws when one hangs or read something wrong.</summary>
    internal void Join(TimeSpan budget, Func<string> context)
    {
        long start = System.Diagnostics.Stopwatch.GetTimestamp();
        foreach (Thread thread in _threads)
        {
            TimeSpan left = budget - System.Diagnostics.Stopwatch.GetElapsedTime(start);
            if (!thread.Join(left > TimeSpan.Zero ? left : TimeSpan.Zero))
            {
                throw new TimeoutException($"{thread.Name} hangs after {budget.TotalSeconds} s, {Touched} of {_pages.LongLength * _threads.Length} touches done. {context()}");
            }
        }

        if (_wrong is not null)
        {
            throw new InvalidDataException($"{_wrong} {context()}");
        }
    }

    private void Run(int seed)
    {
        int[] order = [.. Enumerable.Range(0, _pages.Length)];
        new Random(seed).Shuffle(order);
        byte[] room = new byte[TestPages.Bytes];
        foreach (int i in order)
        {
            (RamBlock block, long offset) = _pages[i];
            if (!TestPages.IsRight(block, offset, room))
            {
                _wrong ??= $"A vCPU read something wrong at offset 0x{offset:x} of '{block.Name}'.";
            }

            _ = Interlocked.Increment(ref _touched);
        }
    }
}
