namespace Postcopy.Uffd.Qemu;

/// <summary>What a source holds per connection: the channels, their buffers, the thread that reads the return path.</summary>
internal sealed class SourceConnection : IDisposable
{
    private readonly int _targetPageSize;
    private readonly bool _checksums;
    private Thread? _returnPathThread;
    private volatile QemuStreamWriter? _urgent;
    private MigrationChannel? _urgentChannel;

    internal SourceConnection(MigrationChannel main, IReadOnlyList<StreamRamBlock> blocks, int targetPageSize, int hostPageSize, bool checksums)
    {
        _targetPageSize = targetPageSize;
        _checksums = checksums;
        Main = main;
        Writer = new QemuStreamWriter(main, targetPageSize, checksums);
        ReturnPath = new ReturnPathReader(main, blocks, targetPageSize, hostPageSize) { AcceptsResend = checksums };
    }

    internal MigrationChannel Main { get; }

    /// <summary>The main channel's writer: the source thread's.</summary>
    internal QemuStreamWriter Writer { get; }

    /// <summary>The urgent channel's writer, once it is open; locked by who uses it.</summary>
    internal QemuStreamWriter? Urgent => _urgent;

    internal ReturnPathReader ReturnPath { get; }

    /// <summary>What ended the connection first. Guarded by the source's lock.</summary>
    internal Exception? Failure { get; set; }

    internal long BytesSent => Writer.BytesSent + (_urgent?.BytesSent ?? 0);

    internal void OpenUrgent(MigrationChannel channel)
    {
        _urgentChannel = channel;
        _urgent = new QemuStreamWriter(channel, _targetPageSize, _checksums);
    }

    internal void StartReturnPath(Action<SourceConnection> read)
    {
        _returnPathThread = new Thread(() => read(this)) { IsBackground = true, Name = "postcopy-source-rp" };
        _returnPathThread.UnsafeStart();
    }

    internal void Abort()
    {
        Main.Abort();
        _urgentChannel?.Abort();
    }

    /// <summary>Closes both channels, waits for the return path's thread, frees the buffers. The source's thread.</summary>
    public void Dispose()
    {
        Main.Dispose();
        _urgentChannel?.Dispose();
        _returnPathThread?.Join();
        Writer.Dispose();
        _urgent?.Dispose();
        ReturnPath.Dispose();
    }
}
