using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using Postcopy.Uffd;
using Postcopy.Uffd.Qemu;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Breaking.Tests;

/// <summary>
/// A child process: one migration after the other, whose source is killed up to three times at points that come from the
/// run's number, and started again with the memory that outlived it. What a run did is one line.
/// </summary>
internal static class KillCampaign
{
    private const int MostKills = 3;

    internal static void Run(ChildScenario child)
    {
        int first = int.Parse(child.Arguments[0], CultureInfo.InvariantCulture);
        int count = int.Parse(child.Arguments[1], CultureInfo.InvariantCulture);
        string folder = child.Arguments[2];
        string memory = Path.Combine(folder, "memory");
        FileMemory.Write(memory, new TestPages(SourcePlan.Blocks));
        for (int run = first; run < first + count; run++)
        {
            child.Say(RunOne(run, folder, memory).GetAwaiter().GetResult());
        }
    }

    private static async Task<string> RunOne(int number, string folder, string memory)
    {
        Random random = new(number);
        long start = Stopwatch.GetTimestamp();
        EndPoint address = random.Next(2) == 0 ? new IPEndPoint(IPAddress.Loopback, 0) : new UnixDomainSocketEndPoint(Path.Combine(folder, $"s{number}"));
        using MigrationListener listener = MigrationListener.Bind(address);
        SourcePlan plan = new(MigrationAddress.Format(listener.LocalEndPoint), memory, (QemuPreemptMode)random.Next(3), random.Next(2), random.Next(2) == 0, random.Next(4) == 0,
            random.Next(4) == 0 ? 0 : 16 << 20);
        int kills = 0;
        int recovered = 0;
        int anew = 0;
        List<string> at = [];
        while (true)
        {
            await using Receiver receiver = new(listener.AcceptAsync, new QemuIncomingOptions
            {
                RecoverTimeout = Receiver.Budget, RecoverAfterEnd = true, Preempt = plan.Preempt != QemuPreemptMode.None, StallTimeout = Receiver.Budget,
            }, vcpus: 2);
            bool recover = false;
            while (!receiver.Receiving.IsCompleted)
            {
                using ChildProcess source = SourceProcess.Start(plan, recover);
                _ = source.ReadLine();
                if (kills < MostKills && (kills == 0 || random.Next(2) == 0))
                {
                    at.Add(await KillAsync(source, receiver, random, recover));
                    kills++;
                }

                recover = await AftermathAsync(receiver, source);
                recovered += recover ? 1 : 0;
            }

            if (receiver.Receiving.IsCompletedSuccessfully)
            {
                await receiver.FinishAsync();
                if (receiver.Destination.Placer.Statistics.AlreadyReceivedPages != 0)
                {
                    throw new InvalidDataException($"Run {number}: a restarted source sent what was here already. {receiver}");
                }

                return string.Create(CultureInfo.InvariantCulture,
                    $"{number} {kills} {recovered} {anew} {Stopwatch.GetElapsedTime(start).TotalMilliseconds:0} {plan.Preempt} {address.AddressFamily} killed {string.Join(", ", at)}");
            }

            // The only failure that may be: the guest is the source's still, and was never let go here.
            QemuIncomingException failure = receiver.Receiving.Exception!.InnerException as QemuIncomingException ?? throw receiver.Receiving.Exception;
            if (!failure.SourceMayResume || receiver.Runs != 0 || receiver.Destination.State == PostcopyState.Running)
            {
                throw new InvalidDataException($"Run {number}, {plan}, killed {string.Join(", ", at)}: {failure} {receiver}");
            }

            anew++;
        }
    }

    /// <summary>Kills it at some time, or when some part of the memory is here, or in the handshake of a recovery.</summary>
    private static async Task<string> KillAsync(ChildProcess source, Receiver receiver, Random random, bool recovering)
    {
        string where;
        double part = random.NextDouble();
        if (random.Next(2) == 0)
        {
            // Most of a run without limit is over after 60 ms.
            TimeSpan delay = TimeSpan.FromMilliseconds(part * part * 400);
            await Task.Delay(delay);
            where = $"after {delay.TotalMilliseconds:0} ms";
        }
        else if (recovering && random.Next(2) == 0)
        {
            await receiver.UntilAsync(() => receiver.Destination.State == PostcopyState.Running || receiver.Incoming.OpenConnections > 0 || receiver.Receiving.IsCompleted, "a connection");
            where = "in the handshake";
        }
        else
        {
            long missing = (long)((1 - part) * (6 << 20));
            await receiver.UntilAsync(() => (receiver.Runs > 0 && receiver.Destination.Blocks.MissingBytes <= missing) || receiver.Receiving.IsCompleted, "progress");
            where = $"with {missing >> 10} KiB to go";
        }

        source.Kill();
        return $"{where} ({receiver.Incoming.Statistics.Phase})";
    }

    /// <summary>Waits until both sides have noticed; true when the next source has to go on, false when it has to begin.</summary>
    private static async Task<bool> AftermathAsync(Receiver receiver, ChildProcess source)
    {
        await receiver.UntilAsync(() => receiver.Receiving.IsCompleted || (source.HasExited && receiver.Incoming.OpenConnections == 0), "the end of a source");
        if (receiver.Receiving.IsCompleted)
        {
            return false;
        }

        // Nothing is open: it is paused, or it waits still because the source never came so far as to begin.
        bool begun = receiver.Incoming.Statistics.Phase >= StreamPhase.Running;
        if (begun)
        {
            await receiver.UntilAsync(() => receiver.Destination.State == PostcopyState.Paused || receiver.Receiving.IsCompleted, "the pause");
        }

        return begun && !receiver.Receiving.IsCompleted;
    }
}
