using Postcopy.Uffd.Qemu.Interop;

namespace Postcopy.Uffd.Qemu.Tests;

/// <summary>Bytes that arrive in pieces of at most some length.</summary>
internal sealed class ChunkedStream(byte[] bytes, int chunk) : MemoryStream(bytes, writable: false), IScatteredStream
{
    public override int Read(Span<byte> buffer) => base.Read(buffer[..Math.Min(buffer.Length, chunk)]);

    public unsafe int Read(Libc.IoVector* vectors, int count)
    {
        int done = 0;
        for (int i = 0; i < count && done < chunk; i++)
        {
            // SAFETY: the caller's native memory.
            Span<byte> part = new((void*)vectors[i].Base, (int)Math.Min(vectors[i].Length, (nuint)(chunk - done)));
            int got = base.Read(part);
            done += got;
            if (got < (int)vectors[i].Length)
            {
                break;
            }
        }

        return done;
    }
}
