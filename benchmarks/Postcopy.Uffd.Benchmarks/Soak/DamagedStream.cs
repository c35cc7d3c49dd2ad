using System.Net.Sockets;

namespace Postcopy.Uffd.Benchmarks.Soak;

/// <summary>A connection that changes one byte in 300 KB of what has checksums: pages after the switch.</summary>
internal sealed class DamagedStream(Socket socket, int seed, Func<bool> isSwitched) : NetworkStream(socket, ownsSocket: true)
{
    private const int BytesPerHit = 300_000;
    private const int LeastWrite = 2048;
    private readonly Random _random = new(seed);
    private long _quiet = BytesPerHit;

    public override void Write(ReadOnlySpan<byte> buffer)
    {
        byte[] copy = buffer.ToArray();
        _quiet -= copy.Length;
        if (_quiet < 0 && copy.Length > LeastWrite && isSwitched())
        {
            _quiet = _random.Next(2 * BytesPerHit);
            copy[copy.Length / 2] ^= (byte)(1 << _random.Next(8));
        }

        // Not by the base: it calls the other overload of a derived stream.
        for (ReadOnlySpan<byte> rest = copy; !rest.IsEmpty;)
        {
            rest = rest[Socket.Send(rest)..];
        }
    }

    public override void Write(byte[] buffer, int offset, int count) => Write(buffer.AsSpan(offset, count));
}
