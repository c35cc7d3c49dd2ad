using System.Buffers.Binary;

namespace Postcopy.Uffd.Qemu.Tests.Incoming;

/// <summary>Where a relayed direction is cut: after a number of bytes, or some bytes behind a pattern.</summary>
internal sealed class Cut
{
    private readonly byte[] _pattern;
    private readonly bool _lengthFollows;
    private readonly long _delta;
    private readonly Func<bool> _armed;
    private readonly List<byte> _length = [];
    private ulong _recent;
    private long _seen;
    private bool _found;
    private long _at = long.MaxValue;

    private Cut(byte[] pattern, bool lengthFollows, long delta, Func<bool>? armed = null)
    {
        _pattern = pattern;
        _lengthFollows = lengthFollows;
        _delta = delta;
        _armed = armed ?? (() => true);
    }

    internal static Cut AfterBytes(long bytes) => new([], false, 0) { _found = true, _at = bytes };

    /// <summary>Behind the package; the source says PING, then begins a section: its first record starts 14 bytes later.</summary>
    internal static Cut AfterPackage(long delta) => new([8, 0, 7, 0, 4], true, delta);

    /// <summary>Behind the first block's, in the middle of the next command.</summary>
    internal static Cut AfterRecvBitmap() => new([8, 0, 10], false, 2 + 1 + "pc.ram".Length + 2);

    /// <summary>In the middle of a bitmap: type 5, then length, name and bulk.</summary>
    internal static Cut InsideBitmap() => new([0, 5, 0], false, 20);

    /// <summary>In the section that begins next: behind an end-of-section record come a footer and a header of five bytes each.</summary>
    internal static Cut InRecord(long delta, Func<bool> armed) => new([0, 0, 0, 0, 0, 0, 0, 0x10], false, 10 + delta, armed);

    /// <summary>All but the last byte of the answer to PING 0x42.</summary>
    internal static Cut InPointOfNoReturn() => new([0, 2, 0, 4, 0, 0, 0, 0x42], false, -1);

    /// <summary>All but the last byte of SHUT 0.</summary>
    internal static Cut InShut() => new([0, 1, 0, 4, 0, 0, 0, 0], false, -1);

    internal static Cut AfterResumeAck() => new([0, 6, 0, 4, 0, 0, 0, 1], false, 0);

    /// <summary>Nothing more may pass.</summary>
    internal bool IsReached => _seen >= _at;

    /// <summary>How many bytes of the next ones may pass; fewer than all means: pass them and cut.</summary>
    internal int Pass(ReadOnlySpan<byte> chunk)
    {
        if (!_armed())
        {
            return chunk.Length;
        }

        for (int i = 0; i < chunk.Length && _at == long.MaxValue; i++)
        {
            if (_found)
            {
                _length.Add(chunk[i]);
                if (_length.Count == sizeof(uint))
                {
                    _at = _seen + i + 1 + BinaryPrimitives.ReadUInt32BigEndian(_length.ToArray()) + _delta;
                }

                continue;
            }

            _recent = (_recent << 8) | chunk[i];
            ulong mask = ulong.MaxValue >> (64 - (8 * _pattern.Length));
            ulong wanted = _pattern.Aggregate(0UL, (value, b) => (value << 8) | b);
            if (_seen + i + 1 >= _pattern.Length && (_recent & mask) == wanted)
            {
                _found = true;
                _at = _lengthFollows ? long.MaxValue : _seen + i + 1 + _delta;
            }
        }

        int pass = (int)Math.Min(chunk.Length, _at - _seen);
        _seen += pass;
        return pass;
    }
}
