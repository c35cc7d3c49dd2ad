namespace Postcopy.Uffd.Benchmarks.Migrations;

/// <summary>
/// The memory of a source's guest, filled before QEMU starts: a file in memory that QEMU opens through this process, so
/// that it goes when this process does.
/// </summary>
internal sealed class GuestContent : IDisposable
{
    private const int PageBytes = 4096;
    private const int ChunkBytes = 2 << 20;

    private readonly GuestMemory _file;

    /// <param name="bytes">The guest's memory.</param>
    /// <param name="zeroPagesOfEach">Of each 512 pages that many are zero, at random places; the last sixteenth of the memory is zero altogether when there are any.</param>
    internal GuestContent(long bytes, int zeroPagesOfEach = 0)
    {
        Bytes = bytes;
        _file = GuestMemory.Allocate(new GuestMemoryOptions { Kind = GuestMemoryKind.Memfd, Name = "lab-guest", Length = bytes });
        byte[] chunk = new byte[ChunkBytes];
        byte[] random = new byte[ChunkBytes];
        Random draw = new(1);
        draw.NextBytes(random);
        long end = zeroPagesOfEach == 0 ? bytes : bytes - (bytes / 16 / ChunkBytes * ChunkBytes);
        for (long at = 0; at < end; at += ChunkBytes)
        {
            random.CopyTo(chunk, 0);
            for (int page = 0; page < ChunkBytes; page += PageBytes)
            {
                _ = BitConverter.TryWriteBytes(chunk.AsSpan(page), (at + page) | 1);
            }

            for (int zero = 0; zero < zeroPagesOfEach; zero++)
            {
                int page = draw.Next(ChunkBytes / PageBytes) * PageBytes;
                ZeroPages += chunk.AsSpan(page, PageBytes).ContainsAnyExcept((byte)0) ? 1 : 0;
                chunk.AsSpan(page, PageBytes).Clear();
            }

            RandomAccess.Write(_file.File!, chunk, at);
        }

        NonZeroStretches = end / ChunkBytes;
    }

    internal long Bytes { get; }

    /// <summary>Zero pages between others.</summary>
    internal long ZeroPages { get; }

    /// <summary>Stretches of 2 MiB with something in them.</summary>
    internal long NonZeroStretches { get; }

    /// <summary>How QEMU opens it.</summary>
    internal string Path => $"/proc/{Environment.ProcessId}/fd/{_file.File!.DangerousGetHandle()}";

    /// <summary>Writes to the memory of a guest that stands still.</summary>
    internal void Write(long at, ReadOnlySpan<byte> bytes) => RandomAccess.Write(_file.File!, bytes, at);

    internal void WriteWord(long at, uint word) => Write(at, BitConverter.GetBytes(word));

    internal uint ReadWord(long at)
    {
        byte[] word = new byte[sizeof(uint)];
        _ = RandomAccess.Read(_file.File!, word, at);
        return BitConverter.ToUInt32(word);
    }

    public void Dispose() => _file.Dispose();
}
