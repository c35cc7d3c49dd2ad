using System.Globalization;
using Postcopy.Uffd;
using Postcopy.Uffd.Qemu;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Breaking.Tests;

/// <summary>kill -9 of the source: with memory that outlives it, and with memory that died with it.</summary>
public sealed class KilledSourceTests(ITestOutputHelper output)
{
    private const int Limit = 3_600_000;
    private const int RunsOfAChild = 10;
    private const int DeathBySigbus = 128 + TestLibc.SIGBUS;

    /// <summary>POSTCOPY_SOURCE_KILLS=200 for the full run.</summary>
    [Fact(Timeout = Limit)]
    public async Task ASourceThatIsKilledAtAnyPointIsTakenOverByTheNextOne() => await Task.Run(() =>
    {
        Requires.Userfaultfd();
        int runs = Full.Count("POSTCOPY_SOURCE_KILLS", 8);
        DirectoryInfo folder = Directory.CreateTempSubdirectory("postcopy-kill-");
        try
        {
            int killed = 0;
            int recovered = 0;
            int anew = 0;
            double longest = 0;
            for (int first = 0; first < runs; first += RunsOfAChild)
            {
                int count = Math.Min(RunsOfAChild, runs - first);
                using ChildProcess child = ChildProcess.Start(KillCampaign.Run, TimeSpan.FromMinutes(5), $"{first}", $"{count}", folder.FullName);
                for (int run = 0; run < count; run++)
                {
                    string line = child.ReadLine();
                    output.WriteLine(line);
                    string[] words = line.Split(' ');
                    killed += int.Parse(words[1], CultureInfo.InvariantCulture);
                    recovered += int.Parse(words[2], CultureInfo.InvariantCulture);
                    anew += int.Parse(words[3], CultureInfo.InvariantCulture);
                    longest = Math.Max(longest, double.Parse(words[4], CultureInfo.InvariantCulture));
                }

                child.WaitForSuccess();
            }

            output.WriteLine($"{runs} runs, {killed} kills, {recovered} recoveries, {anew} begun anew because the guest was the source's still; the longest run {longest:0} ms");
            Assert.True(killed >= runs && recovered >= runs / 4, $"{killed} kills, {recovered} recoveries in {runs} runs");
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    });

    [Theory(Timeout = Limit)]
    [InlineData(MissingPagePolicy.KeepWaiting)]
    [InlineData(MissingPagePolicy.Poison)]
    [InlineData(MissingPagePolicy.Fail)]
    public async Task MemoryThatDiedWithItsSourceIsToldLoudlyAndNothingWrongIsRead(MissingPagePolicy policy) => await Task.Run(() =>
    {
        Requires.Userfaultfd(UffdFeatures.Poison);
        DirectoryInfo folder = Directory.CreateTempSubdirectory("postcopy-kill-");
        try
        {
            using ChildProcess child = ChildProcess.Start(LoseTheSource, Receiver.Budget + Receiver.Budget, $"{policy}", folder.FullName);
            string told = child.ReadLine();
            Assert.Matches(@"^SourceMayResume False: No new connection came within 0\.3 s after one was lost .* \d+ pages are missing, the first at offset 0x[0-9a-f]+ of RAM block 'pc\.", told);
            Assert.Equal(policy switch
            {
                MissingPagePolicy.Fail => "refused, then served",
                MissingPagePolicy.KeepWaiting => "frozen",
                _ => "closed",
            }, child.ReadLine());
            if (policy == MissingPagePolicy.Poison)
            {
                Assert.Equal(DeathBySigbus, child.WaitForExit());
            }
            else
            {
                child.WaitForSuccess();
            }
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    });

    private static void LoseTheSource(ChildScenario child)
    {
        MissingPagePolicy policy = Enum.Parse<MissingPagePolicy>(child.Arguments[0]);
        string memory = Path.Combine(child.Arguments[1], "memory");
        FileMemory.Write(memory, new TestPages(SourcePlan.Blocks));
        using MigrationListener listener = MigrationListener.Bind(MigrationAddress.Parse($"unix:{child.Arguments[1]}/s"));
        Receiver receiver = new(listener.AcceptAsync, new QemuIncomingOptions { RecoverTimeout = TimeSpan.FromSeconds(0.3) });
        using (ChildProcess source = SourceProcess.Start(new SourcePlan(MigrationAddress.Format(listener.LocalEndPoint), memory, QemuPreemptMode.None, 0, false, false, 1 << 20), recover: false))
        {
            receiver.Running.Wait(Receiver.Budget);
            source.Kill();
        }

        QemuIncomingException failure = Assert.ThrowsAsync<QemuIncomingException>(() => receiver.Receiving.WaitAsync(Receiver.Budget)).GetAwaiter().GetResult();
        child.Say($"SourceMayResume {failure.SourceMayResume}: {failure.Message}");
        if (policy == MissingPagePolicy.Fail)
        {
            _ = Assert.ThrowsAsync<PostcopyIncompleteException>(() => receiver.Destination.CloseAsync(policy).AsTask()).GetAwaiter().GetResult();

            // Nothing was given up: whoever finds the pages elsewhere can still place them.
            receiver.StartGuest(2);
            Serve(receiver.Destination);
            receiver.Guest!.Join(Receiver.Budget, receiver.ToString);
            receiver.Destination.CloseAsync(policy).AsTask().Wait(Receiver.Budget);
            child.Say("refused, then served");
            return;
        }

        receiver.Destination.CloseAsync(policy).AsTask().Wait(Receiver.Budget);
        if (policy == MissingPagePolicy.Poison)
        {
            child.Say("closed");
        }

        receiver.StartGuest(2);
        try
        {
            receiver.Guest!.Join(TimeSpan.FromSeconds(1), () => "as it should");
        }
        catch (TimeoutException) when (policy == MissingPagePolicy.KeepWaiting)
        {
            child.Say("frozen");
        }

        TestLibc.exit_now(0);
    }

    /// <summary>All missing pages, from where else they can be had.</summary>
    private static unsafe void Serve(PostcopyDestination destination)
    {
        nuint page = (nuint)System.Runtime.InteropServices.NativeMemory.AlignedAlloc(TestPages.Bytes, TestPages.Bytes);
        foreach (RamBlock block in destination.Blocks.Blocks)
        {
            for (long offset = 0; offset < block.UsedLength; offset += TestPages.Bytes)
            {
                TestPages.Fill(block.Name, offset, new Span<byte>((void*)page, TestPages.Bytes));
                Assert.True(destination.Placer.Place(block, offset, page, TestPages.Bytes).IsReceived);
            }
        }
    }
}
