using System.Diagnostics;
using System.Runtime.InteropServices;
using Postcopy.Uffd;

namespace Postcopy.Destination;

/// <summary>
/// Stand-ins for vCPUs: threads that touch every page in a seeded random order, in preemptive mode, and time their own
/// touches with a clock of their own.
/// </summary>
internal sealed class VcpuThreads
{
    private readonly SeededContent? _content;
    private readonly IReadOnlyList<RamBlock> _blocks;
    private readonly Vcpu[] _vcpus;
    private readonly CountdownEvent _registered;

    internal VcpuThreads(PostcopyDestination destination, int count, long seed, SeededContent? content)
    {
        _content = content;
        _blocks = destination.Blocks.Blocks;
        _registered = new CountdownEvent(count);
        _vcpus = [.. Enumerable.Range(0, count).Select(i => new Vcpu(this, i, seed, destination.Blocktime))];
    }

    /// <summary>Time that the threads themselves saw in touches, per thread.</summary>
    internal IReadOnlyList<TimeSpan> SelfTimed => [.. _vcpus.Select(v => Stopwatch.GetElapsedTime(0, v.Ticks))];

    internal long WrongTouches => _vcpus.Sum(v => v.Wrong);

    internal long Touches => _vcpus.Sum(v => v.Touches);

    internal void Start()
    {
        foreach (Vcpu vcpu in _vcpus)
        {
            vcpu.Thread.Start();
        }
    }

    internal void RequestStop()
    {
        foreach (Vcpu vcpu in _vcpus)
        {
            vcpu.Stop = true;
        }
    }

    internal bool Join(TimeSpan timeout)
    {
        long start = Stopwatch.GetTimestamp();
        return _vcpus.All(v => v.Thread.Join(Remaining(start, timeout)));
    }

    private static TimeSpan Remaining(long start, TimeSpan timeout)
    {
        TimeSpan left = timeout - Stopwatch.GetElapsedTime(start);
        return left > TimeSpan.Zero ? left : TimeSpan.Zero;
    }

    private sealed class Vcpu
    {
        private readonly VcpuThreads _owner;
        private readonly int _index;
        private readonly long _seed;
        private readonly BlocktimeTracker? _blocktime;

        internal Vcpu(VcpuThreads owner, int index, long seed, BlocktimeTracker? blocktime)
        {
            _owner = owner;
            _index = index;
            _seed = seed;
            _blocktime = blocktime;
            Thread = new Thread(Main) { IsBackground = true, Name = $"vcpu {index}" };
        }

        internal Thread Thread { get; }

        internal long Ticks { get; private set; }

        internal long Wrong { get; private set; }

        internal long Touches { get; private set; }

        internal volatile bool Stop;

        private void Main()
        {
            _ = _blocktime?.AddVcpu(HostThread.CurrentId);

            // As a machine's vCPUs: all are known before the first runs, or those that are there count as all.
            _ = _owner._registered.Signal();
            _owner._registered.Wait();
            (int Block, long Page)[] order = Order();
            Span<byte> touched = stackalloc byte[8];
            byte[] expected = new byte[SeededContent.PageBytes];
            foreach ((int block, long page) in order)
            {
                if (Stop)
                {
                    return;
                }

                long start = Stopwatch.GetTimestamp();
                _owner._blocks[block].Read(page * SeededContent.PageBytes, touched);
                Ticks += Stopwatch.GetTimestamp() - start;
                Touches++;
                if (_owner._content is { } content)
                {
                    content.Fill(block, page * SeededContent.PageBytes, expected);
                    Wrong += touched.SequenceEqual(expected.AsSpan(0, touched.Length)) ? 0 : 1;
                }
            }
        }

        private (int Block, long Page)[] Order()
        {
            List<(int, long)> pages = [];
            for (int b = 0; b < _owner._blocks.Count; b++)
            {
                for (long p = 0; p < _owner._blocks[b].UsedLength / SeededContent.PageBytes; p++)
                {
                    pages.Add((b, p));
                }
            }

            new Random(unchecked((int)((_seed * 1000) + _index))).Shuffle(CollectionsMarshal.AsSpan(pages));
            return [.. pages];
        }
    }
}
