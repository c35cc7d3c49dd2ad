using Postcopy.Uffd.Qemu.Tests.Incoming;

namespace Postcopy.Uffd.Qemu.Tests.Live;

/// <summary>A connection that breaks where a cut says, for what a relay cannot see: inside TLS.</summary>
internal sealed class CutStream(MigrationChannel channel, Cut? received, Cut? sent) : Stream
{
    private volatile bool _cut;

    public override bool CanRead => true;

    public override bool CanSeek => false;

    public override bool CanWrite => true;

    public override long Length => throw new NotSupportedException();

    public override long Position
    {
        get => throw new NotSupportedException();
        set => throw new NotSupportedException();
    }

    public override int Read(Span<byte> buffer)
    {
        ThrowIfCut();
        int got = channel.Receive(buffer);
        return Pass(received, buffer[..got]);
    }

    public override void Write(ReadOnlySpan<byte> buffer)
    {
        ThrowIfCut();
        int pass = sent?.Pass(buffer) ?? buffer.Length;
        channel.Send(buffer[..pass]);
        if (pass < buffer.Length || sent is { IsReached: true })
        {
            Break();
        }
    }

    public override int Read(byte[] buffer, int offset, int count) => Read(buffer.AsSpan(offset, count));

    public override void Write(byte[] buffer, int offset, int count) => Write(buffer.AsSpan(offset, count));

    public override void Flush()
    {
    }

    public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();

    public override void SetLength(long value) => throw new NotSupportedException();

    protected override void Dispose(bool disposing) => channel.Dispose();

    private int Pass(Cut? cut, ReadOnlySpan<byte> bytes)
    {
        int pass = cut?.Pass(bytes) ?? bytes.Length;
        if (pass < bytes.Length || cut is { IsReached: true })
        {
            Break();
        }

        return pass;
    }

    private void Break()
    {
        _cut = true;
        channel.Dispose();
    }

    private void ThrowIfCut()
    {
        if (_cut)
        {
            throw new IOException("The connection was cut.");
        }
    }
}
