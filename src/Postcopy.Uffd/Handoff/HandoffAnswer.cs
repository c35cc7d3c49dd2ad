using System.Buffers.Binary;
using System.Text;

namespace Postcopy.Uffd;

/// <summary>The handler's answer: it serves, or why not. With an acceptance travels the handler's pidfd.</summary>
internal sealed record HandoffAnswer(bool Accepted, string Text)
{
    internal const int HeaderBytes = 24;
    internal const int MaxBytes = 4096;

    internal static ReadOnlySpan<byte> Magic => "PCANSWER"u8;

    internal byte[] Encode()
    {
        byte[] text = Encoding.UTF8.GetBytes(Text.Length > 1000 ? Text[..1000] : Text);
        byte[] bytes = new byte[HeaderBytes + text.Length];
        Magic.CopyTo(bytes);
        BinaryPrimitives.WriteUInt16LittleEndian(bytes.AsSpan(8), HandoffMessage.MajorVersion);
        BinaryPrimitives.WriteUInt16LittleEndian(bytes.AsSpan(10), HandoffMessage.MinorVersion);
        BinaryPrimitives.WriteInt32LittleEndian(bytes.AsSpan(12), bytes.Length);
        BinaryPrimitives.WriteInt32LittleEndian(bytes.AsSpan(16), Accepted ? 0 : 1);
        BinaryPrimitives.WriteInt32LittleEndian(bytes.AsSpan(20), text.Length);
        text.CopyTo(bytes, HeaderBytes);
        return bytes;
    }

    internal static int LengthOf(ReadOnlySpan<byte> header)
    {
        uint length = BinaryPrimitives.ReadUInt32LittleEndian(header[12..]);
        return header[..Magic.Length].SequenceEqual(Magic) && length is >= HeaderBytes and <= MaxBytes
            ? (int)length
            : throw new HandoffException("The handler's answer is none: it does not begin with PCANSWER and a sensible length.");
    }

    internal static HandoffAnswer Decode(ReadOnlySpan<byte> bytes)
    {
        int text = BinaryPrimitives.ReadInt32LittleEndian(bytes[20..]);
        return text == bytes.Length - HeaderBytes
            ? new HandoffAnswer(BinaryPrimitives.ReadInt32LittleEndian(bytes[16..]) == 0, Encoding.UTF8.GetString(bytes[HeaderBytes..].ToArray()))
            : throw new HandoffException($"The handler's answer of {bytes.Length} bytes claims a text of {text}.");
    }
}
