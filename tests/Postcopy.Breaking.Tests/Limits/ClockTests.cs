using System.Globalization;
using Postcopy.Uffd;
using Postcopy.Uffd.Qemu;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Breaking.Tests;

/// <summary>Clocks that jump in mid-migration: a time-out that fires for it costs a recovery, and never a page.</summary>
public sealed class ClockTests(ITestOutputHelper output)
{
    private const int Limit = 600_000;

    [Theory(Timeout = Limit)]
    [InlineData("date")]
    [InlineData("forwards")]
    [InlineData("both ways")]
    public async Task NothingIsLostAndNobodyHangsWhenTheClockJumps(string how) => await Task.Run(() =>
    {
        Requires.Userfaultfd();
        using ChildProcess child = ChildProcess.Start(Run, Receiver.Budget + Receiver.Budget, how);
        string line = child.ReadLine();
        output.WriteLine(line);
        child.WaitForSuccess();
        string[] words = line.Split(' ');
        Assert.True(int.Parse(words[0], CultureInfo.InvariantCulture) > 10, line);
        if (how == "date")
        {
            Assert.Equal("0", words[2]);
        }
    });

    private static void Run(ChildScenario child) => child.Say(RunAsync(child.Arguments[0]).GetAwaiter().GetResult());

    private static async Task<string> RunAsync(string how)
    {
        JumpingClock clock = new();
        using Connections connections = new();
        await using Receiver receiver = new(connections.AcceptAsync, new QemuIncomingOptions
        {
            TimeProvider = clock, RecoverTimeout = Receiver.Budget, RecoverAfterEnd = true, StallTimeout = TimeSpan.FromSeconds(2),
        }, new PostcopyOptions { TimeProvider = clock, Placer = new PlacerOptions { TimeProvider = clock }, Blocktime = new BlocktimeOptions { TimeProvider = clock } });
        using CancellationTokenSource stop = new();
        Task jumping = Task.Run(async () =>
        {
            Random random = new(3);
            while (!stop.IsCancellationRequested)
            {
                TimeSpan by = TimeSpan.FromMinutes(random.Next(-600, 600));
                if (how == "date")
                {
                    clock.SetDate(by);
                }
                else
                {
                    clock.Jump(how == "forwards" ? by.Duration() : by);
                }

                await Task.Delay(random.Next(60));
            }
        });
        int recoveries = await SourceLoop.RunAsync(
            receiver, new TestPages(new SourceRamBlock("pc.ram", 4 << 20), new SourceRamBlock("pc.idle", 4 << 20)),
            new QemuSourceOptions { TimeProvider = clock, BackgroundBandwidth = 4 << 20 }, connections.Connect,
            _ => receiver.StartGuest(2, blocks: 1));
        await receiver.FinishAsync();
        await stop.CancelAsync();
        await jumping;
        BlocktimeReport report = receiver.Destination.Blocktime!.Snapshot();
        if (report.Vcpus.Any(v => v.BlocktimeNanoseconds < 0))
        {
            throw new InvalidDataException($"A blocktime below zero: {report}");
        }

        return $"{clock.Jumps} jumps, {recoveries} recoveries";
    }
}
