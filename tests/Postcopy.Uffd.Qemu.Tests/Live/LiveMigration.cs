using System.Diagnostics;
using System.Net;
using System.Net.Security;
using System.Net.Sockets;
using System.Text.Json;
using Postcopy.Uffd.Qemu.Tests.Incoming;

namespace Postcopy.Uffd.Qemu.Tests.Live;

/// <summary>A migration from a real QEMU into a destination with real userfaults, over a network that can be broken.</summary>
internal sealed class LiveMigration : IAsyncDisposable
{
    internal const long Memory = 128 << 20;
    internal const long LoadedAt = 1 << 20;

    private volatile bool _slow;
    private readonly MigrationListener _listener;
    private readonly TaskCompletionSource _running = new();
    private readonly string _uri;
    private readonly string _path;
    private readonly bool _tls;
    private readonly Queue<(Cut? Forward, Cut? Backward)> _cuts = [];

    internal LiveMigration(QemuProcess qemu, bool unix = false, bool tls = false, bool preempt = false, TimeSpan? stall = null, TimeSpan? recover = null, bool switchoverAck = false)
    {
        Qemu = qemu;
        _tls = tls;
        _path = Path.Combine(qemu.Directory, "direct");
        SslServerAuthenticationOptions? certificates = tls ? Certificates.Write(qemu.Directory) : null;
        _listener = MigrationListener.Bind(
            unix ? new UnixDomainSocketEndPoint(_path) : new IPEndPoint(IPAddress.Loopback, 0), new MigrationListenerOptions { Tls = certificates });
        string relayed = Path.Combine(qemu.Directory, "relayed");
        Network = new RelayFront(unix ? new UnixDomainSocketEndPoint(relayed) : new IPEndPoint(IPAddress.Loopback, 0), _listener.LocalEndPoint);
        _uri = unix ? $"unix:{qemu.Inside}/relayed" : $"tcp:127.0.0.1:{((IPEndPoint)Network.Address).Port}";
        Destination = new PostcopyDestination();
        Incoming = new QemuIncoming(Destination, new QemuIncomingOptions
        {
            OnPackage = (package, _) =>
            {
                Package = package;
                return ValueTask.CompletedTask;
            },
            OnRunning = _running.SetResult,
            RecoverTimeout = recover ?? TimeSpan.FromSeconds(30),
            StallTimeout = stall ?? TimeSpan.FromSeconds(30),
            Preempt = preempt,
            SwitchoverAck = switchoverAck,
        });
        List<string> capabilities = ["postcopy-ram", .. preempt ? ["postcopy-preempt"] : Array.Empty<string>()];
        string list = string.Join(", ", capabilities.Select(c => $"{{\"capability\": \"{c}\", \"state\": true}}"));
        qemu.Monitor.Execute("migrate-set-capabilities", $"{{\"capabilities\": [{list}]}}");
        if (tls)
        {
            qemu.Monitor.Execute("object-add", $"{{\"qom-type\": \"tls-creds-x509\", \"id\": \"tls0\", \"dir\": \"{qemu.Inside}\", \"endpoint\": \"client\"}}");
            qemu.Monitor.Execute("migrate-set-parameters", "{\"tls-creds\": \"tls0\", \"tls-hostname\": \"127.0.0.1\"}");
        }
    }

    internal QemuProcess Qemu { get; }

    internal RelayFront Network { get; }

    internal PostcopyDestination Destination { get; }

    internal QemuIncoming Incoming { get; }

    internal DevicePackage? Package { get; private set; }

    internal Task<CompletionReport> Receiving { get; private set; } = null!;

    internal RamBlock Ram => Destination.Blocks.Blocks.MaxBy(b => b.UsedLength)!;

    internal void Begin(long precopyBandwidth = 10_000_000, long postcopyBandwidth = 0, bool switchAtOnce = true)
    {
        Qemu.Monitor.Execute("migrate-set-parameters", $"{{\"max-bandwidth\": {precopyBandwidth}, \"max-postcopy-bandwidth\": {postcopyBandwidth}}}");
        Receiving = Incoming.RunAsync(AcceptAsync, TestContext.Current.CancellationToken);
        Qemu.Monitor.Execute("migrate", $"{{\"uri\": \"{_uri}\"}}");
        if (switchAtOnce)
        {
            Qemu.Monitor.Execute("migrate-start-postcopy");
        }
    }

    /// <summary>Where the next connection will break; with TLS that is found behind the decryption.</summary>
    internal void CutNext(Cut? forward, Cut? backward = null)
    {
        if (!_tls)
        {
            Network.CutNext(forward, backward);
            return;
        }

        lock (_cuts)
        {
            _cuts.Enqueue((forward, backward));
        }
    }

    internal void SetPostcopyBandwidth(long bytes) => Qemu.Monitor.Execute("migrate-set-parameters", $"{{\"max-postcopy-bandwidth\": {bytes}}}");

    internal void Resume() => Qemu.Monitor.Execute("migrate", $"{{\"uri\": \"{_uri}\", \"resume\": true}}");

    internal void Unlimit()
    {
        _slow = false;
        SetPostcopyBandwidth(0);
    }

    /// <summary>The guest may run; or why it never will.</summary>
    internal async Task RunningAsync()
    {
        if (await Task.WhenAny(_running.Task, Receiving) == Receiving)
        {
            TestContext.Current.TestOutputHelper?.WriteLine($"source: {Qemu.Monitor.Execute("query-migrate")}");
            _ = await Receiving;
        }
    }

    internal async Task BrokenAsync(long missing)
    {
        await Migration.Until(() => Destination.Blocks.MissingBytes < missing || Receiving.IsCompleted);
        Network.Break();
        await PausedAsync();
    }

    internal async Task PausedAsync()
    {
        Qemu.Monitor.WaitForStatus("postcopy-paused");
        await Migration.Until(() => Destination.State == PostcopyState.Paused || Receiving.IsCompleted);
        Assert.Equal(PostcopyState.Paused, Destination.State);
    }

    internal async Task<CompletionReport> CompletedAsync()
    {
        CompletionReport report = await Receiving;
        Qemu.Monitor.WaitForStatus("completed");
        Assert.Equal(0, Destination.Blocks.MissingBytes);
        Assert.Equal(0, Destination.Placer.Statistics.AlreadyReceivedPages);
        return report;
    }

    internal long SourceRequests() => Qemu.Monitor.Execute("query-migrate").GetProperty("ram").GetProperty("postcopy-requests").GetInt64();

    /// <summary>Threads that read one word of every page of the guest's RAM, each in an order of its own.</summary>
    /// <summary>
    /// As <see cref="Touch"/>, a page in a millisecond until <see cref="Unlimit"/>: QEMU limits the background only, and what is asked
    /// for must not have brought all before the break that is to come. With nothing left to send, there is nothing that 11.1 could resume.
    /// </summary>
    internal Task[] TouchSlowly(int threads)
    {
        _slow = true;
        return Touch(threads);
    }

    internal Task[] Touch(int threads) => [.. Enumerable.Range(0, threads).Select(seed => Task.Factory.StartNew(() => TouchAll(seed), TaskCreationOptions.LongRunning))];

    public async ValueTask DisposeAsync()
    {
        await Incoming.DisposeAsync();
        Network.Dispose();
        _listener.Dispose();
        Assert.False(File.Exists(_path));
        await Destination.CloseAsync(MissingPagePolicy.KeepWaiting);
        if (Destination.Blocks.MissingBytes > 0)
        {
            // A touching thread may wait in it.
            return;
        }

        foreach (RamBlock block in Destination.Blocks.Blocks)
        {
            block.Memory?.Dispose();
        }
    }

    private async ValueTask<MigrationChannel> AcceptAsync(CancellationToken cancellation)
    {
        MigrationChannel channel = await _listener.AcceptAsync(cancellation);
        lock (_cuts)
        {
            return _cuts.TryDequeue(out (Cut? Forward, Cut? Backward) cut) ? MigrationChannel.FromStream(new CutStream(channel, cut.Forward, cut.Backward)) : channel;
        }
    }

    private void TouchAll(int seed)
    {
        RamBlock ram = Ram;
        int[] pages = [.. Enumerable.Range(0, (int)(ram.UsedLength / 4096))];
        new Random(seed).Shuffle(pages);
        byte[] word = new byte[4];
        foreach (int page in pages)
        {
            if (_slow && !ram.Received.Test(page))
            {
                Thread.Sleep(1);
            }

            ram.Read(page * 4096L, word);
        }
    }
}
