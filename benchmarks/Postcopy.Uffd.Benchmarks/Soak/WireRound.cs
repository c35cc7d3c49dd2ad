using System.Diagnostics;
using System.Net.Sockets;
using System.Threading.Channels;
using Postcopy.Uffd.Qemu;

namespace Postcopy.Uffd.Benchmarks.Soak;

/// <summary>A whole migration over QEMU's wire that is broken again and again, and damaged when pages have checksums.</summary>
internal sealed class WireRound(SoakCounters counters, Random random) : IMigrationSourceMemory
{
    private const long Ram = 32 << 20;
    private const int Vcpus = 2;
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(30);
    private static readonly TimeSpan s_stall = TimeSpan.FromSeconds(5);
    private readonly Channel<MigrationChannel> _accepted = Channel.CreateUnbounded<MigrationChannel>();
    private readonly string _folder = Directory.CreateTempSubdirectory("postcopy-soak-").FullName;
    private readonly long _generation = random.NextInt64(1 << 30);
    private readonly TaskCompletionSource _running = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private int _damages;

    public IReadOnlyList<SourceRamBlock> Blocks { get; } = [new SourceRamBlock("pc.ram", Ram)];

    public void ReadPages(SourceRamBlock block, long offset, Span<byte> destination)
    {
        for (int at = 0; at < destination.Length; at += SoakContent.PageBytes)
        {
            SoakContent.Fill((offset + at) / SoakContent.PageBytes, _generation, destination.Slice(at, SoakContent.PageBytes));
        }
    }

    internal async Task RunAsync()
    {
        QemuPreemptMode preempt = (QemuPreemptMode)random.Next(3);
        QemuSourceOptions options = new()
        {
            Preempt = preempt, PageChecksums = random.Next(2) == 0, PrecopyPasses = random.Next(2), PrecopyLimit = Ram / 4, BackgroundBandwidth = 16 << 20,
        };
        PostcopyDestination destination = new(new PostcopyOptions { Blocktime = new BlocktimeOptions() });
        counters.Begin(destination);
        QemuIncoming incoming = new(destination, new QemuIncomingOptions
        {
            OnRunning = _running.SetResult, RecoverTimeout = s_patience, StallTimeout = s_stall, RecoverAfterEnd = true, Preempt = preempt != QemuPreemptMode.None,
            Stream = new QemuStreamOptions { RequirePageChecksums = options.PageChecksums },
        });
        Task<CompletionReport> receiving = incoming.RunAsync(_accepted.Reader.ReadAsync);
        QemuSource source = new(this, options);
        Func<MigrationChannel>? urgent = preempt == QemuPreemptMode.None ? null : () => Connect(options.PageChecksums);
        Task<QemuSourceState> sending = source.RunAsync(Connect(options.PageChecksums), urgent);
        await await Task.WhenAny(_running.Task, receiving);
        Thread[] vcpus = [.. Enumerable.Range(0, Vcpus).Select(_ => StartVcpu(destination.Blocks.Blocks[0], random.Next()))];
        for (int breaks = random.Next(6); !receiving.IsCompleted; breaks--)
        {
            if (breaks > 0)
            {
                _ = await Task.WhenAny(Task.Delay(random.Next(250)), sending);
                source.BreakConnection();
            }

            if (await sending.WaitAsync(s_patience) == QemuSourceState.Completed)
            {
                break;
            }

            _ = await Task.WhenAny(receiving, PausedAsync(destination));
            if (!receiving.IsCompleted)
            {
                counters.Recoveries++;
                source = source.State == QemuSourceState.PostcopyPaused ? source : QemuSource.ForRecovery(this, options);
                sending = source.ResumeAsync(Connect(options.PageChecksums), urgent);
            }
        }

        _ = await receiving.WaitAsync(s_patience);
        Array.ForEach(vcpus, t => t.Join());
        counters.Migrations++;
        counters.Refused += incoming.Statistics.CorruptPages;
        counters.End();
        await source.DisposeAsync();
        await incoming.DisposeAsync();
        await destination.CloseAsync(MissingPagePolicy.Fail);
        destination.Blocks.Blocks[0].Memory?.Dispose();
        destination.Blocks.Dispose();
        Directory.Delete(_folder, recursive: true);
    }

    private static async Task PausedAsync(PostcopyDestination destination)
    {
        long start = Stopwatch.GetTimestamp();
        while (destination.State != PostcopyState.Paused)
        {
            if (Stopwatch.GetElapsedTime(start) > s_patience)
            {
                throw new LabException($"A destination whose source is gone stays {destination.State}.");
            }

            await Task.Delay(1);
        }
    }

    private Thread StartVcpu(RamBlock block, int seed)
    {
        Thread thread = new(() =>
        {
            byte[] room = new byte[SoakContent.PageBytes];
            int[] order = [.. Enumerable.Range(0, (int)(Ram / SoakContent.PageBytes))];
            new Random(seed).Shuffle(order);
            foreach (int page in order)
            {
                long began = Stopwatch.GetTimestamp();
                counters.Note(SoakContent.IsRight(block, page, _generation, room), began);
            }
        })
        { IsBackground = true, Name = "vcpu" };
        thread.Start();
        return thread;
    }

    private MigrationChannel Connect(bool damaged)
    {
        string path = Path.Combine(_folder, Guid.NewGuid().ToString("N")[..8]);
        using Socket listener = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        listener.Bind(new UnixDomainSocketEndPoint(path));
        listener.Listen(1);
        Socket ours = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        ours.Connect(new UnixDomainSocketEndPoint(path));
        _ = _accepted.Writer.TryWrite(MigrationChannel.FromSocket(listener.Accept()));
        return damaged ? MigrationChannel.FromStream(new DamagedStream(ours, ++_damages, () => _running.Task.IsCompleted), ours) : MigrationChannel.FromSocket(ours);
    }
}
