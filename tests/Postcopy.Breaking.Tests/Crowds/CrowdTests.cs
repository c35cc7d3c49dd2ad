using System.Diagnostics;
using Postcopy.Uffd;
using Postcopy.Uffd.Qemu;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Breaking.Tests;

/// <summary>More of everything than the machine has: vCPUs, blocks.</summary>
public sealed class CrowdTests(ITestOutputHelper output)
{
    private const int Limit = 300_000;

    /// <summary>64 vCPUs on 2 processors; 2 000 blocks, of which every bitmap crosses the wire in a recovery.</summary>
    [Theory(Timeout = Limit)]
    [InlineData(64, 1, 16 << 20)]
    [InlineData(4, 2000, 16 << 10)]
    public async Task IsServedAndRecovers(int vcpus, int blocks, int bytesOfABlock) => await Task.Run(() =>
    {
        Requires.Userfaultfd();
        using ChildProcess child = ChildProcess.Start(Run, 2 * Receiver.Budget, $"{vcpus}", $"{blocks}", $"{bytesOfABlock}");
        output.WriteLine(child.ReadLine());
        child.WaitForSuccess();
    });

    private static void Run(ChildScenario child)
    {
        int[] numbers = [.. child.Arguments.Select(int.Parse)];
        child.Say(RunAsync(numbers[0], [.. Enumerable.Range(0, numbers[1]).Select(i => new SourceRamBlock($"ram{i}", numbers[2]))]).GetAwaiter().GetResult());
    }

    private static async Task<string> RunAsync(int vcpus, SourceRamBlock[] blocks)
    {
        long start = Stopwatch.GetTimestamp();
        long memory = blocks.Sum(b => b.Length);
        using Connections connections = new();
        await using Receiver receiver = new(connections.AcceptAsync, new QemuIncomingOptions { RecoverTimeout = Receiver.Budget });
        Task? breaking = null;
        int recoveries = await SourceLoop.RunAsync(receiver, new TestPages(blocks), new QemuSourceOptions { BackgroundBandwidth = memory / 4 }, connections.Connect, source =>
        {
            // The first break comes before the first touch: 64 vCPUs fetch everything before this thread runs again.
            source.BreakConnection();
            receiver.StartGuest(vcpus);
            breaking = Task.Run(async () =>
            {
                for (int eighths = 6; eighths > 0; eighths -= 3)
                {
                    await receiver.UntilAsync(() => receiver.Destination.Blocks.MissingBytes < memory / 8 * eighths, $"less than {eighths}/8 of the memory missing");
                    source.BreakConnection();
                    await receiver.UntilAsync(() => receiver.Destination.State is PostcopyState.Running or PostcopyState.End, "the recovery");
                }
            });
        });
        await breaking!;
        await receiver.FinishAsync();
        FaultStatistics faults = receiver.Destination.Faults;
        if (recoveries == 0 || faults.Requests > memory / TestPages.Bytes * (1 + recoveries) || faults.StuckFaults > 0)
        {
            throw new InvalidDataException($"{recoveries} recoveries, {receiver}");
        }

        return $"{vcpus} vCPUs, {blocks.Length} blocks, {receiver.Guest!.Touched} touches, {recoveries} recoveries, {Stopwatch.GetElapsedTime(start).TotalSeconds:0.0} s; {faults}";
    }
}
