using Microsoft.Win32.SafeHandles;
using Postcopy.Uffd.Qemu;

namespace Postcopy.Uffd.Benchmarks.Lab;

/// <summary>
/// A postcopy stream as QEMU sends it, in a file in memory: both sides read the same bytes by read(2), which costs what
/// a socket's recv(2) costs without its waits.
/// </summary>
internal sealed class RecordedStream : IDisposable
{
    private const int PageBytes = 4096;
    private const int PagesPerSection = 16384;
    private const uint RamSection = 2;

    private readonly GuestMemory _memory;

    private RecordedStream(GuestMemory memory, long length)
    {
        _memory = memory;
        Length = length;
    }

    internal SafeFileHandle File => _memory.File!;

    internal long Length { get; }

    /// <summary>A guest of one block, all of it sent after the switch, in ascending order.</summary>
    /// <param name="bytes">The guest's memory.</param>
    /// <param name="zero">Every page is zero; otherwise none is.</param>
    internal static RecordedStream Record(long bytes, bool zero)
    {
        long pages = bytes / PageBytes;
        GuestMemory memory = GuestMemory.Allocate(new GuestMemoryOptions
        {
            Kind = GuestMemoryKind.Memfd,
            Name = "recorded-stream",
            Length = PageSize.Host.Bytes * (((pages * (zero ? 16 : PageBytes + 16)) / PageSize.Host.Bytes) + 256),
        });
        using MigrationChannel channel = MigrationChannel.FromStream(new Recorder(memory.File!));
        using QemuStreamWriter writer = new(channel, PageBytes, checksums: false);
        StreamRamBlock block = new(0, "pc.ram", bytes, PageBytes);
        writer.Header("pc-q35-11.1", null);
        writer.Command(MigrationCommand.OpenReturnPath);
        writer.Ping(1);
        writer.Advise(PageBytes);
        writer.RamStart(RamSection, [block], PageBytes);
        writer.Discard(block, [new DiscardRange(0, bytes)]);
        writer.Ping(2);
        writer.Package([], pointOfNoReturn: true);
        Content content = new(bytes, zero);
        for (long page = 0; page < pages; page += PagesPerSection)
        {
            long end = Math.Min(pages, page + PagesPerSection);
            writer.RamContinue(RamSection, last: end == pages);
            for (long i = page; i < end; i++)
            {
                _ = writer.Page(content, content.Block, block, i * PageBytes, detectZero: zero);
            }

            writer.SectionFinish(RamSection);
        }

        writer.EndOfFile();
        writer.Flush();
        return new RecordedStream(memory, writer.BytesSent);
    }

    /// <summary>A connection that plays it from the start and takes answers without doing anything about them.</summary>
    internal MigrationChannel Play() => MigrationChannel.FromStream(new Player(File, Length));

    public void Dispose() => _memory.Dispose();

    private sealed class Content(long bytes, bool zero) : IMigrationSourceMemory
    {
        internal SourceRamBlock Block { get; } = new("pc.ram", bytes);

        public IReadOnlyList<SourceRamBlock> Blocks => [Block];

        public void ReadPages(SourceRamBlock block, long offset, Span<byte> destination)
        {
            destination.Fill(zero ? (byte)0 : (byte)0xa5);
            if (!zero)
            {
                _ = BitConverter.TryWriteBytes(destination, offset | 1);
            }
        }
    }

    private sealed class Recorder(SafeFileHandle file) : Pipe
    {
        private long _at;

        public override int Read(Span<byte> buffer) => throw new NotSupportedException();

        public override void Write(ReadOnlySpan<byte> buffer)
        {
            RandomAccess.Write(file, buffer, _at);
            _at += buffer.Length;
        }
    }

    private sealed unsafe class Player(SafeFileHandle file, long length) : Pipe, IScatteredStream
    {
        private long _at;

        // A file: who asks whether more is on its way is told, as a socket would tell it.
        public override bool CanSeek => true;

        public override long Length => length;

        public override long Position
        {
            get => _at;
            set => throw new NotSupportedException();
        }

        public override int Read(Span<byte> buffer)
        {
            int got = RandomAccess.Read(file, buffer[..(int)Math.Min(buffer.Length, length - _at)], _at);
            _at += got;
            return got;
        }

        public int Read(Postcopy.Uffd.Qemu.Interop.Libc.IoVector* vectors, int count)
        {
            nint got = Interop.Libc.preadv(file, vectors, count, _at);
            _at += Math.Max(0, got);
            return (int)got;
        }

        public override void Write(ReadOnlySpan<byte> buffer)
        {
        }
    }

    /// <summary>A stream that only reads and writes spans.</summary>
    private abstract class Pipe : Stream
    {
        public override bool CanRead => true;

        public override bool CanWrite => true;

        public override bool CanSeek => false;

        public override long Length => throw new NotSupportedException();

        public override long Position
        {
            get => throw new NotSupportedException();
            set => throw new NotSupportedException();
        }

        public override int Read(byte[] buffer, int offset, int count) => Read(buffer.AsSpan(offset, count));

        public override void Write(byte[] buffer, int offset, int count) => Write(buffer.AsSpan(offset, count));

        public override void Flush()
        {
        }

        public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();

        public override void SetLength(long value) => throw new NotSupportedException();

        public abstract override int Read(Span<byte> buffer);

        public abstract override void Write(ReadOnlySpan<byte> buffer);
    }
}
