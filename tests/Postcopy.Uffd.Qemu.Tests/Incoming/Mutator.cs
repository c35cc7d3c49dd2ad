namespace Postcopy.Uffd.Qemu.Tests.Incoming;

/// <summary>A copy of a capture with some bytes changed, removed, repeated, exchanged or cut off. The buffer is used again each time.</summary>
internal sealed class Mutator
{
    private const int Structure = 1024;
    private const int LongestPiece = 16;
    private byte[] _bytes = [];
    private int _length;

    internal ReadOnlyMemory<byte> Bytes => _bytes.AsMemory(0, _length);

    /// <summary>Copies it as it is.</summary>
    internal void Load(byte[] capture)
    {
        if (_bytes.Length < capture.Length + 64)
        {
            _bytes = new byte[capture.Length + 64];
        }

        capture.CopyTo(_bytes, 0);
        _length = capture.Length;
    }

    /// <summary>One to three changes; half of them in the first kilobyte, where the structure is.</summary>
    internal void Mutate(Random random)
    {
        for (int n = random.Next(1, 4); n > 0 && _length > 0; n--)
        {
            int at = random.Next(random.Next(2) == 0 ? Math.Min(Structure, _length) : _length);
            int piece = Math.Min(random.Next(1, LongestPiece), _length - at);
            switch (random.Next(7))
            {
                case 0:
                    _bytes[at] ^= (byte)(1 << random.Next(8));
                    break;
                case 1:
                    _bytes[at] = (byte)random.Next(256);
                    break;
                case 2:
                    _bytes[at] = (byte)(random.Next(2) == 0 ? 0 : 0xff);
                    break;
                case 3:
                    _bytes.AsSpan(at + piece, _length - at - piece).CopyTo(_bytes.AsSpan(at));
                    _length -= piece;
                    break;
                case 4:
                    _bytes.AsSpan(at, _length - at).CopyTo(_bytes.AsSpan(at + piece));
                    _length += piece;
                    break;
                case 5:
                    int other = random.Next(_length);
                    (_bytes[at], _bytes[other]) = (_bytes[other], _bytes[at]);
                    break;
                default:
                    _length = at;
                    break;
            }
        }
    }
}
