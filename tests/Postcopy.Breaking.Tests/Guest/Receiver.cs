using Postcopy.Uffd;
using Postcopy.Uffd.Qemu;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Breaking.Tests;

/// <summary>A destination with its guest, for a scenario in a child process. Whatever takes longer than its budget throws.</summary>
internal sealed class Receiver : IAsyncDisposable
{
    /// <summary>Liveness: how long one step may take on a busy machine of two processors.</summary>
    internal static readonly TimeSpan Budget = TimeSpan.FromSeconds(40);

    private readonly TaskCompletionSource _running = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private int _runs;

    /// <param name="accept">The next connection.</param>
    /// <param name="options">How it is received.</param>
    /// <param name="destination">How pages are placed.</param>
    /// <param name="vcpus">How many touch the memory as soon as the guest may run; 0 leaves it to <see cref="StartGuest"/>.</param>
    internal Receiver(
        Func<CancellationToken, ValueTask<MigrationChannel>> accept, QemuIncomingOptions options, PostcopyOptions? destination = null, int vcpus = 0)
    {
        Destination = new PostcopyDestination((destination ?? new PostcopyOptions()) with { Open = Requires.AnyKind });
        Incoming = new QemuIncoming(Destination, options with
        {
            OnRunning = () =>
            {
                _ = Interlocked.Increment(ref _runs);
                if (vcpus > 0)
                {
                    StartGuest(vcpus);
                }

                _running.SetResult();
            },
        });
        Receiving = Incoming.RunAsync(accept);
    }

    internal PostcopyDestination Destination { get; }

    internal QemuIncoming Incoming { get; }

    internal Task<CompletionReport> Receiving { get; }

    /// <summary>How often the guest was let go: never more than once.</summary>
    internal int Runs => Volatile.Read(ref _runs);

    internal Task Running => _running.Task;

    internal GuestThreads? Guest { get; private set; }

    /// <summary>vCPUs that touch all memory, or only its first blocks: the others have to come by themselves.</summary>
    internal void StartGuest(int threads, int seed = 0, int blocks = int.MaxValue) => Guest = new GuestThreads(Destination.Blocks.Blocks.Take(blocks), threads, seed);

    /// <summary>The end of a migration that went well: nothing is missing, nobody waits, everything is right.</summary>
    internal async Task FinishAsync()
    {
        _ = await Receiving.WaitAsync(Budget);
        Guest?.Join(Budget, ToString);
        if (Destination.Blocks.MissingBytes != 0 || Runs != 1)
        {
            throw new InvalidDataException($"Complete with something missing, or a guest that ran {Runs} times. {this}");
        }

        TestPages.Check(Destination.Blocks.Blocks);
    }

    internal async Task UntilAsync(Func<bool> condition, string what)
    {
        long start = System.Diagnostics.Stopwatch.GetTimestamp();
        while (!condition())
        {
            if (System.Diagnostics.Stopwatch.GetElapsedTime(start) > Budget)
            {
                throw new TimeoutException($"Not within {Budget.TotalSeconds} s: {what}. {this}");
            }

            await Task.Delay(1);
        }
    }

    public override string ToString() =>
        $"Destination {Destination.State}, {Destination.DescribeMissing()}, {Incoming.Statistics}, {Destination.Faults}, {Receiving.Status} {Receiving.Exception?.InnerException?.Message}";

    /// <summary>After a failure its guest stays frozen, and its memory mapped.</summary>
    public async ValueTask DisposeAsync()
    {
        await Incoming.DisposeAsync();
        await Destination.CloseAsync(MissingPagePolicy.KeepWaiting);
        if (Destination.Blocks.MissingBytes > 0 && Guest is not null)
        {
            return;
        }

        foreach (RamBlock block in Destination.Blocks.Blocks)
        {
            block.Memory?.Dispose();
        }

        Destination.Blocks.Dispose();
    }
}
