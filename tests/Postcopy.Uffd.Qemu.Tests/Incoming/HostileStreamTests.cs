using System.Diagnostics;
using System.Globalization;

namespace Postcopy.Uffd.Qemu.Tests.Incoming;

/// <summary>Mutated captures through the whole destination, with real userfaults. Not beside the live tests: what it measures is the process.</summary>
[Collection("live")]
public sealed class HostileStreamTests
{
    private const long Ram = 256 << 10;
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(20);
    private static readonly QemuIncomingOptions s_options = new()
    {
        StallTimeout = TimeSpan.FromSeconds(0.05),
        Stream = new QemuStreamOptions
        {
            ReceiveBufferSize = QemuStreamOptions.MinReceiveBufferSize,
            Limits = new ProtocolLimits { MaxTotalRam = 4 << 20, MaxBlockLength = 4 << 20, MaxPackageLength = 1 << 20, MaxBlocks = 16, MaxBlockPageSize = 4096 },
        },
    };

    /// <summary>POSTCOPY_MUTATIONS=200000 for the long run.</summary>
    [Fact(Timeout = 1_800_000)]
    public async Task EveryMutationEndsWithTheRightError()
    {
        int count = int.Parse(Environment.GetEnvironmentVariable("POSTCOPY_MUTATIONS") ?? "5000", CultureInfo.InvariantCulture);
        byte[][] captures = [await Capture(precopy: false, pointOfNoReturn: false), await Capture(precopy: true, pointOfNoReturn: true)];
        Dictionary<string, int> ends = [];
        Random random = new(20261123);
        long before = GC.GetTotalAllocatedBytes();
        for (int i = 0; i < count; i++)
        {
            byte[] stream = Mutate(captures[i % captures.Length], random);
            string end = await Receive(stream, i);
            ends[end] = ends.GetValueOrDefault(end) + 1;
        }

        // The limits allow a package of 1 MiB at once; most streams hold far less.
        Assert.InRange((GC.GetTotalAllocatedBytes() - before) / count, 0, 4 << 20);
        TestContext.Current.TestOutputHelper?.WriteLine(string.Join(", ", ends.Select(e => $"{e.Key}: {e.Value}")));
        Assert.True(ends.Count > 2);
    }

    private static async Task<string> Receive(byte[] stream, int number)
    {
        PostcopyDestination destination = new();
        await using QemuIncoming incoming = new(destination, s_options);
        string end;
        try
        {
            using Replay replay = new(stream);
            bool taken = false;
            Task<CompletionReport> receiving = incoming.RunAsync(async token =>
            {
                if (taken)
                {
                    // Turned away as a stranger, or read to its end: nobody else comes.
                    await replay.Closed.Task.WaitAsync(token);
                    throw new EndOfStreamException("no other connection");
                }

                taken = true;
                return MigrationChannel.FromStream(replay);
            });
            _ = await receiving.WaitAsync(s_patience, TestContext.Current.CancellationToken);
            end = "complete";
            Assert.Equal(0, destination.Blocks.MissingBytes);
        }
        catch (TimeoutException)
        {
            Assert.Fail($"mutation {number} hangs in phase {incoming.Statistics.Phase}, state {destination.State}");
            throw new UnreachableException();
        }
        catch (Exception e) when (e is MigrationStreamException or QemuIncomingException)
        {
            end = e.GetType().Name;
        }

        await incoming.DisposeAsync();
        QemuIncomingStatistics wire = incoming.Statistics;
        long received = destination.Blocks.Blocks.Sum(b => b.PageCount - b.MissingPages);
        Assert.InRange(received, 0, wire.Pages + wire.ZeroPages);
        await destination.CloseAsync(MissingPagePolicy.Poison);
        foreach (RamBlock block in destination.Blocks.Blocks)
        {
            block.Memory?.Dispose();
        }

        return end;
    }

    private static async Task<byte[]> Capture(bool precopy, bool pointOfNoReturn)
    {
        await using Migration migration = new(
            new PatternMemory(new SourceRamBlock("pc.ram", Ram), new SourceRamBlock("pc.rom", 16 << 10)),
            new QemuSourceOptions { PrecopyPasses = precopy ? 1 : 0, PrecopyLimit = Ram / 2, UsePointOfNoReturn = pointOfNoReturn, SendSwitchoverStart = pointOfNoReturn });
        Task<CompletionReport> receiving = migration.Receive();
        (MigrationChannel main, Relay relay) = migration.ConnectOver();
        Assert.Equal(QemuSourceState.Completed, await migration.Source.RunAsync(main));
        _ = await receiving;
        return [.. relay.Recording];
    }

    /// <summary>Some bytes changed, removed, repeated or cut off; half of the time in the first kilobyte, where the structure is.</summary>
    private static byte[] Mutate(byte[] capture, Random random)
    {
        List<byte> bytes = [.. capture];
        for (int n = random.Next(1, 4); n > 0; n--)
        {
            int at = random.Next(random.Next(2) == 0 ? Math.Min(1024, bytes.Count) : bytes.Count);
            int length = Math.Min(random.Next(1, 16), bytes.Count - at);
            switch (random.Next(5))
            {
                case 0:
                    bytes[at] ^= (byte)(1 << random.Next(8));
                    break;
                case 1:
                    bytes[at] = (byte)random.Next(256);
                    break;
                case 2:
                    bytes.RemoveRange(at, length);
                    break;
                case 3:
                    bytes.InsertRange(at, bytes.GetRange(at, length));
                    break;
                default:
                    bytes.RemoveRange(at, bytes.Count - at);
                    break;
            }

            if (bytes.Count == 0)
            {
                break;
            }
        }

        return [.. bytes];
    }

    /// <summary>Reads a capture to its end; what is written goes nowhere.</summary>
    private sealed class Replay(byte[] bytes) : MemoryStream(bytes, writable: false)
    {
        internal TaskCompletionSource Closed { get; } = new(TaskCreationOptions.RunContinuationsAsynchronously);

        public override bool CanWrite => true;

        protected override void Dispose(bool disposing) => _ = Closed.TrySetResult();

        public override void Write(ReadOnlySpan<byte> buffer)
        {
        }

        public override void Write(byte[] buffer, int offset, int count)
        {
        }
    }
}
