using System.Net.Sockets;
using System.Runtime.InteropServices;

namespace Postcopy.Uffd.Qemu.Tests.Incoming;

/// <summary>A network that damages what is written to it: the content of chosen pages, or any byte now and then.</summary>
internal sealed class DamagingStream : NetworkStream
{
    private const int Mark = 32;
    private readonly Dictionary<long, (byte[] Begin, int Times)> _pages = [];
    private readonly Random? _random;
    private readonly int _bytesPerHit;
    private readonly long _quietBytes;
    private long _written;
    private long _nextHit;
    private int _hits;

    /// <summary>Damages a byte in the content of each of these pages, as often as it comes up to so many times.</summary>
    internal DamagingStream(Socket socket, string block, int times, params long[] pages)
        : base(socket, ownsSocket: true)
    {
        byte[] content = new byte[4096];
        foreach (long page in pages)
        {
            PatternMemory.Fill(block, page * 4096, content);
            _pages[page] = (content[..Mark], times);
        }
    }

    /// <summary>Damages any byte, one in so many, after a quiet beginning.</summary>
    internal DamagingStream(Socket socket, int seed, int bytesPerHit, long quietBytes)
        : base(socket, ownsSocket: true)
    {
        _random = new Random(seed);
        _bytesPerHit = bytesPerHit;
        _quietBytes = quietBytes;
        _nextHit = quietBytes + _random.Next(bytesPerHit);
    }

    internal int Hits => Volatile.Read(ref _hits);

    public override void Write(ReadOnlySpan<byte> buffer)
    {
        byte[] copy = buffer.ToArray();
        foreach (long page in _pages.Keys.ToArray())
        {
            (byte[] begin, int times) = CollectionsMarshal.GetValueRefOrNullRef(_pages, page);
            int at = times > 0 ? copy.AsSpan().IndexOf(begin) : -1;
            if (at >= 0)
            {
                copy[at + (Mark / 2)] ^= 0x10;
                _pages[page] = (begin, times - 1);
                _ = Interlocked.Increment(ref _hits);
            }
        }

        if (_random is not null)
        {
            for (; _nextHit < _written + copy.Length; _nextHit += 1 + _random.Next(2 * _bytesPerHit))
            {
                copy[_nextHit - _written] ^= (byte)(1 << _random.Next(8));
                _ = Interlocked.Increment(ref _hits);
            }
        }

        _written += copy.Length;

        // Not by the base: it calls the other overload of a derived stream.
        for (ReadOnlySpan<byte> rest = copy; !rest.IsEmpty;)
        {
            rest = rest[Socket.Send(rest)..];
        }
    }

    public override void Write(byte[] buffer, int offset, int count) => Write(buffer.AsSpan(offset, count));
}
