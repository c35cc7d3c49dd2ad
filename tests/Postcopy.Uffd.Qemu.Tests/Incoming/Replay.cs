namespace Postcopy.Uffd.Qemu.Tests.Incoming;

/// <summary>Reads a capture to its end, once it may begin; what is written goes nowhere.</summary>
internal sealed class Replay(ReadOnlyMemory<byte> bytes, ManualResetEventSlim? begin = null) : Stream
{
    private int _at;
    private volatile bool _closed;

    private long _allocatedBefore = -1;

    /// <summary>The most that the reading thread had allocated when it asked for more, since it first did.</summary>
    internal long MostAllocated { get; private set; }

    internal TaskCompletionSource Closed { get; } = new(TaskCreationOptions.RunContinuationsAsynchronously);

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
        begin?.Wait();
        long allocated = GC.GetAllocatedBytesForCurrentThread();
        _allocatedBefore = _allocatedBefore < 0 ? allocated : _allocatedBefore;
        MostAllocated = Math.Max(MostAllocated, allocated - _allocatedBefore);
        if (_closed)
        {
            return 0;
        }

        ReadOnlySpan<byte> left = bytes.Span[_at..];
        int count = Math.Min(left.Length, buffer.Length);
        left[..count].CopyTo(buffer);
        _at += count;
        return count;
    }

    public override int Read(byte[] buffer, int offset, int count) => Read(buffer.AsSpan(offset, count));

    public override void Write(ReadOnlySpan<byte> buffer)
    {
    }

    public override void Write(byte[] buffer, int offset, int count)
    {
    }

    public override void Flush()
    {
    }

    public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();

    public override void SetLength(long value) => throw new NotSupportedException();

    protected override void Dispose(bool disposing)
    {
        _closed = true;
        begin?.Set();
        _ = Closed.TrySetResult();
    }
}
