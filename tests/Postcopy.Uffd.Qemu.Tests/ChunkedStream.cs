namespace Postcopy.Uffd.Qemu.Tests;

/// <summary>Bytes that arrive in pieces of at most some length.</summary>
internal sealed class ChunkedStream(byte[] bytes, int chunk) : MemoryStream(bytes, writable: false)
{
    public override int Read(Span<byte> buffer) => base.Read(buffer[..Math.Min(buffer.Length, chunk)]);
}
