using System.Net.Sockets;
using System.Threading.Channels;

namespace Postcopy.Uffd.Qemu.Tests.Incoming;

/// <summary>A source and a destination in this process, over Unix socket pairs, with real userfaults.</summary>
internal sealed class Migration : IAsyncDisposable
{
    private readonly Channel<MigrationChannel> _connections = Channel.CreateUnbounded<MigrationChannel>();
    private readonly string _folder = Directory.CreateTempSubdirectory("postcopy-test-").FullName;

    private readonly List<Relay> _relays = [];
    private bool _touched;

    internal Migration(IMigrationSourceMemory memory, QemuSourceOptions? source = null, QemuIncomingOptions? incoming = null, PostcopyOptions? destination = null)
    {
        Source = new QemuSource(memory, source);
        Destination = new PostcopyDestination(destination);
        Incoming = new QemuIncoming(Destination, incoming);
        SourceOptions = source ?? new QemuSourceOptions();
    }

    internal QemuSource Source { get; }

    internal QemuSourceOptions SourceOptions { get; }

    internal PostcopyDestination Destination { get; }

    internal QemuIncoming Incoming { get; }

    internal Task<CompletionReport> Receive(CancellationToken cancellation = default) => Incoming.RunAsync(_connections.Reader.ReadAsync, cancellation);

    internal Task<QemuSourceState> Send() => Source.RunAsync(Connect(), Urgent());

    internal Task<QemuSourceState> Resend() => Source.ResumeAsync(Connect(), Urgent());

    internal void Offer(MigrationChannel channel) => Assert.True(_connections.Writer.TryWrite(channel));

    /// <summary>A connection; its other end is accepted by the destination.</summary>
    internal MigrationChannel Connect()
    {
        (Socket ours, Socket theirs) = Pair();
        Offer(MigrationChannel.FromSocket(theirs));
        return MigrationChannel.FromSocket(ours);
    }

    /// <summary>A connection over a relay; both ends are accepted.</summary>
    internal (MigrationChannel Ours, Relay Relay) ConnectOver(Cut? forward = null, Cut? backward = null)
    {
        (Socket ours, Socket near) = Pair();
        (Socket far, Socket theirs) = Pair();
        Relay relay = new(near, far, forward, backward);
        lock (_relays)
        {
            _relays.Add(relay);
        }

        Offer(MigrationChannel.FromSocket(theirs));
        return (MigrationChannel.FromSocket(ours), relay);
    }

    internal (Socket Ours, Socket Theirs) Pair()
    {
        string path = Path.Combine(_folder, Guid.NewGuid().ToString("N")[..8]);
        using Socket listener = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        listener.Bind(new UnixDomainSocketEndPoint(path));
        listener.Listen(1);
        Socket ours = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        ours.Connect(new UnixDomainSocketEndPoint(path));
        return (ours, listener.Accept());
    }

    /// <summary>Threads that read every page in an order of their own, and say how many were wrong.</summary>
    internal Task<int>[] Touch(int threads)
    {
        RamBlock[] blocks = [.. Destination.Blocks.Blocks];
        _touched = true;
        return [.. Enumerable.Range(0, threads).Select(seed => Task.Factory.StartNew(() => TouchAll(blocks, seed), TaskCreationOptions.LongRunning))];
    }

    public async ValueTask DisposeAsync()
    {
        foreach (Relay relay in _relays)
        {
            relay.Dispose();
        }

        await Source.DisposeAsync();
        await Incoming.DisposeAsync();
        await Destination.CloseAsync(MissingPagePolicy.KeepWaiting);
        Directory.Delete(_folder, recursive: true);
        if (Destination.Blocks.MissingBytes == 0 || !_touched)
        {
            // No touching thread waits in it.
            foreach (RamBlock block in Destination.Blocks.Blocks)
            {
                block.Memory?.Dispose();
            }
        }
    }

    /// <summary>For a test that hangs.</summary>
    public override string ToString() =>
        $"source {Source.State} {Source.Statistics} {Source.Error?.Message}; destination {Destination.State}, {Destination.DescribeMissing()}; {Incoming.Statistics}; faults {Destination.Faults}";

    internal static async Task Until(Func<bool> condition)
    {
        while (!condition())
        {
            TestContext.Current.CancellationToken.ThrowIfCancellationRequested();
            await Task.Delay(1);
        }
    }

    private Func<MigrationChannel>? Urgent() => SourceOptions.Preempt == QemuPreemptMode.None ? null : Connect;

    private static int TouchAll(RamBlock[] blocks, int seed)
    {
        (RamBlock Block, long Offset)[] order = [.. blocks.SelectMany(b => Enumerable.Range(0, (int)(b.UsedLength / 4096)).Select(p => (b, p * 4096L)))];
        new Random(seed).Shuffle(order);
        byte[] found = new byte[4096];
        byte[] expected = new byte[4096];
        int wrong = 0;
        foreach ((RamBlock block, long offset) in order)
        {
            block.Read(offset, found);
            PatternMemory.Fill(block.Name, offset, expected);
            wrong += found.AsSpan().SequenceEqual(expected) ? 0 : 1;
        }

        return wrong;
    }
}
