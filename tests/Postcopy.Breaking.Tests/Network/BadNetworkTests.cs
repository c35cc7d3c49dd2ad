using System.Globalization;
using Postcopy.Uffd;
using Postcopy.Uffd.Qemu;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Breaking.Tests;

/// <summary>Bytes that are cut off, late, doubled, lost and damaged, in both directions and in every handshake, after the switch.</summary>
public sealed class BadNetworkTests(ITestOutputHelper output)
{
    private const int Limit = 3_600_000;
    private const long Ram = 6 << 20;

    /// <summary>POSTCOPY_NETWORKS=100 for the full run.</summary>
    [Fact(Timeout = Limit)]
    public async Task WhateverTheNetworkDoesTheGuestArrivesWhole() => await Task.Run(() =>
    {
        Requires.Userfaultfd();
        int networks = Full.Count("POSTCOPY_NETWORKS", 6);
        using ChildProcess child = ChildProcess.Start(Run, TimeSpan.FromMinutes(1 + networks), $"{networks}");
        int harm = 0;
        int recoveries = 0;
        for (int i = 0; i < networks; i++)
        {
            string line = child.ReadLine();
            output.WriteLine(line);
            harm += int.Parse(line.Split(' ')[1], CultureInfo.InvariantCulture);
            recoveries += int.Parse(line.Split(' ')[2], CultureInfo.InvariantCulture);
        }

        child.WaitForSuccess();
        output.WriteLine($"{networks} migrations, {harm} harms, {recoveries} recoveries");
        Assert.True(harm > 10 * networks && recoveries >= networks, $"The networks were not bad enough: {harm} harms, {recoveries} recoveries.");
    });

    private static void Run(ChildScenario child)
    {
        for (int seed = 0; seed < int.Parse(child.Arguments[0], CultureInfo.InvariantCulture); seed++)
        {
            child.Say(RunOne(seed).GetAwaiter().GetResult());
        }
    }

    private static async Task<string> RunOne(int seed)
    {
        Random random = new(seed);
        QemuPreemptMode preempt = (QemuPreemptMode)(seed % 3);
        int bytesPerHarm = 40_000 << random.Next(4);
        Damage damage = new();
        using Connections connections = new();
        TestPages memory = new(new SourceRamBlock("pc.ram", Ram), new SourceRamBlock("pc.bios", 256 << 10));
        await using Receiver receiver = new(connections.AcceptAsync, new QemuIncomingOptions
        {
            RecoverTimeout = Receiver.Budget, RecoverAfterEnd = true, StallTimeout = TimeSpan.FromSeconds(1), Preempt = preempt != QemuPreemptMode.None,
            Stream = new QemuStreamOptions { RequirePageChecksums = true },
        });
        MigrationChannel Next() => connections.ConnectOver(random.Next(), bytesPerHarm, damage, () => receiver.Runs > 0 && !receiver.Receiving.IsCompleted);
        int recoveries = await SourceLoop.RunAsync(
            receiver, memory, new QemuSourceOptions { Preempt = preempt, PageChecksums = true, BackgroundBandwidth = 32 << 20 }, Next, _ => receiver.StartGuest(2, seed));
        await receiver.FinishAsync();
        return $"{seed} {damage.Total} {recoveries} recoveries {preempt}: {damage}, {receiver.Incoming.Statistics.CorruptPages} pages refused";
    }
}
