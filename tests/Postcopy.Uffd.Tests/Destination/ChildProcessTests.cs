using System.Globalization;
using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;
using Postcopy.Uffd.Interop;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Destination;

/// <summary>What may kill or freeze its process, in a process of its own.</summary>
public sealed class ChildProcessTests
{
    private const int Limit = 120_000;
    private const int DeathBySigbus = 128 + TestLibc.SIGBUS;

    [Fact(Timeout = Limit)]
    public async Task PoisonTurnsAMissingPageIntoSigbus() => await Task.Run(() =>
    {
        Requires.Userfaultfd(UffdFeatures.Poison);
        using ChildProcess child = ChildProcess.Start(CloseWithPoison);
        Assert.Equal("closed", child.ReadLine());
        Assert.Equal("placed pages are right", child.ReadLine());
        Assert.Equal(DeathBySigbus, child.WaitForExit());
    });

    [Fact(Timeout = Limit)]
    public async Task PoisonWakesWhoeverWaitsIntoSigbus() => await Task.Run(() =>
    {
        Requires.Userfaultfd(UffdFeatures.Poison);
        using ChildProcess child = ChildProcess.Start(CloseWithPoisonUnderAWaiter);
        Assert.Equal("waiting", child.ReadLine());
        Assert.Equal(DeathBySigbus, child.WaitForExit());
    });

    [Theory(Timeout = Limit)]
    [InlineData("close")]
    [InlineData("dispose")]
    public async Task KeepWaitingKeepsTheThreadFrozenAlsoAfterCollections(string how) => await Task.Run(() =>
    {
        Requires.Userfaultfd();
        using ChildProcess child = ChildProcess.Start(CloseWithKeepWaiting, how);
        Assert.Equal("frozen", child.ReadLine());
        child.WaitForSuccess();
    });

    [Fact(Timeout = Limit)]
    public async Task AKernelModeFaultUnderPendingSignalsIsOneRequestAndLittleWork() => await Task.Run(() =>
    {
        Requires.KernelFaults();
        string[] told = ChildProcess.Run(FaultUnderSignals).Split(' ');
        long messages = long.Parse(told[0], CultureInfo.InvariantCulture);
        long requests = long.Parse(told[1], CultureInfo.InvariantCulture);
        double processorShare = double.Parse(told[2], CultureInfo.InvariantCulture);
        Assert.Equal(1, requests);
        // Unbounded it is 300 000 a second; a pause of up to 200 us a read leaves a few thousand.
        Assert.InRange(messages, 1, 30_000);
        Assert.True(processorShare < 0.5, $"The fault thread used {processorShare:P0} of a processor, {messages} messages.");
    });

    [Fact(Timeout = Limit)]
    public async Task ATargetThatIsKilledIsACleanEnd() => await Task.Run(() =>
    {
        using MemoryHolder holder = MemoryHolder.Start(8);
        using GuestMemory shadow = GuestMemory.Allocate(new GuestMemoryOptions { Length = 8 * 4096 });
        using RamBlockRegistry registry = new();
        using PostcopyPlacer placer = new();
        RamBlock block = registry.Add(new RamBlockSpec { Name = "ram", Memory = shadow });

        // The block's addresses are the other process's; nothing here touches them but the ioctls.
        block.MoveTo(holder.Range.Start);
        block.Attach(holder.Uffd, UffdModes.Missing, UffdOperations.Copy | UffdOperations.Zeropage | UffdOperations.Wake | UffdOperations.Poison);
        nuint source = Pages.Make(1, 4096);
        holder.Touch(4096);
        Assert.Equal(PlaceOutcome.Placed, placer.Place(block, 4096, source, 4096).Outcome);
        Assert.Equal(Pages.Expected(1, 4096)[0], holder.Answer());

        holder.Touch(2 * 4096);
        holder.Kill();

        Assert.Equal(PlaceOutcome.TargetGone, placer.Place(block, 2 * 4096, source, 4096).Outcome);
        Assert.Equal(PlaceOutcome.TargetGone, placer.PlaceZero(block, 3 * 4096, 4096).Outcome);
        Assert.Equal(PlaceOutcome.TargetGone, placer.PoisonMissing(block).Outcome);
        Assert.Equal(PlaceOutcome.TargetGone, placer.ResolveReceived(block, 1, minor: false));
        Assert.Equal(7, block.MissingPages);
        Pages.Free(source);
    });

    [Fact(Timeout = Limit)]
    public async Task AMirrorWhoseProcessIsKilledHoldsNobodyUp() => await Task.Run(() =>
    {
        using MemoryHolder holder = MemoryHolder.Start(8);
        using DestinationBench bench = new(pages: 8, shared: true);
        bench.Destination.AttachMirror(holder.Uffd, bench.Block, holder.Range.Start, UffdModes.Missing);
        holder.Touch(4096);
        Assert.Equal(4096, bench.Requester.Take().Offset);
        holder.Kill();

        FaultingThread reader = bench.Read(3);
        Assert.Equal(3 * 4096, bench.Requester.Take().Offset);
        bench.PlaceAll();
        Assert.Equal(DestinationBench.FirstByte(3), (byte)reader.Result);
        _ = bench.Destination.CompleteAsync().WaitAsync(Deadline.Default).GetAwaiter().GetResult();
    });

    private static void CloseWithPoison(ChildScenario child)
    {
        DestinationBench bench = new(pages: 8);
        _ = bench.Place(0, 4);
        bench.Destination.CloseAsync(MissingPagePolicy.Poison).AsTask().Wait(Deadline.Default);
        child.Say("closed");
        for (int page = 0; page < 4; page++)
        {
            bench.AssertContent(page);
        }

        child.Say("placed pages are right");
        _ = FaultingThread.ReadByte(bench.Mapping.Page(5));
    }

    private static void CloseWithPoisonUnderAWaiter(ChildScenario child)
    {
        DestinationBench bench = new(pages: 8);
        FaultingThread waiter = bench.Read(5);
        _ = bench.Requester.Take();
        child.Say("waiting");
        bench.Destination.CloseAsync(MissingPagePolicy.Poison).AsTask().Wait(Deadline.Default);
        _ = waiter.Result;
    }

    private static void CloseWithKeepWaiting(ChildScenario child)
    {
        FaultingThread waiter = Freeze(child.Arguments[0]);
        for (int i = 0; i < 20; i++)
        {
            GC.Collect();
            GC.WaitForPendingFinalizers();
            if (waiter.Wait(TimeSpan.FromMilliseconds(25)))
            {
                throw new InvalidOperationException($"The thread read {waiter.Result} from a page that never came.");
            }
        }

        child.Say("frozen");
        TestLibc.exit_now(0);
    }

    /// <summary>Nothing of it is reachable from the caller but the thread.</summary>
    [System.Runtime.CompilerServices.MethodImpl(System.Runtime.CompilerServices.MethodImplOptions.NoInlining)]
    private static FaultingThread Freeze(string how)
    {
        RawMapping memory = RawMapping.Anonymous(8);
        PostcopyDestination destination = new(new PostcopyOptions { Open = Requires.AnyKind });
        _ = destination.Blocks.Add(new RamBlockSpec { Name = "ram", HostAddress = memory.Address, UsedLength = 8 * 4096 });
        QueueRequester requester = new();
        destination.Advise();
        destination.Listen(requester);
        FaultingThread waiter = FaultingThread.Read(memory.Page(3));
        _ = requester.Take();
        ValueTask closing = how == "close" ? destination.CloseAsync(MissingPagePolicy.KeepWaiting) : destination.DisposeAsync();
        closing.AsTask().Wait(Deadline.Default);
        if (destination.State != PostcopyState.Failed || !destination.Completion.IsFaulted)
        {
            throw new InvalidOperationException($"State {destination.State}.");
        }

        // A second one, after the close.
        FaultingThread late = FaultingThread.Read(memory.Page(6));
        return late.Wait(TimeSpan.FromMilliseconds(50)) ? late : waiter;
    }

    /// <summary>A read(2) into a missing page, with a signal that stays pending: the kernel repeats the fault for ever.</summary>
    private static unsafe void FaultUnderSignals(ChildScenario child)
    {
        DestinationBench bench = new(pages: 8);
        using SafeFileHandle zero = File.OpenHandle("/dev/zero");
        int thread = 0;
        FaultingThread reader = bench.Run(() =>
        {
            Volatile.Write(ref thread, Libc.gettid());
            return Libc.read(zero, (void*)bench.Mapping.Page(3), 4096);
        });
        _ = bench.Requester.Take();
        // A handled signal that cannot be delivered while the thread is in the kernel's fault path.
        using PosixSignalRegistration handled = PosixSignalRegistration.Create(PosixSignal.SIGWINCH, c => c.Cancel = true);
        TimeSpan before = FaultThreadTime();
        long start = System.Diagnostics.Stopwatch.GetTimestamp();
        while (System.Diagnostics.Stopwatch.GetElapsedTime(start) < TimeSpan.FromSeconds(1))
        {
            _ = TestLibc.SignalThread(Volatile.Read(ref thread), TestLibc.SIGWINCH);
            Libc.Pause(1_000_000);
        }

        double share = (FaultThreadTime() - before) / System.Diagnostics.Stopwatch.GetElapsedTime(start);
        FaultStatistics faults = bench.Destination.Faults;
        _ = bench.Place(3);
        if (reader.Result != 4096)
        {
            throw new InvalidOperationException($"read returned {reader.Result}.");
        }

        child.Say(string.Create(CultureInfo.InvariantCulture, $"{faults.Messages} {faults.Requests} {share}"));
        TestLibc.exit_now(0);
    }

    /// <summary>Processor time of the thread named postcopy-fault, from /proc.</summary>
    private static TimeSpan FaultThreadTime()
    {
        foreach (string task in Directory.GetDirectories("/proc/self/task"))
        {
            if (File.ReadAllText($"{task}/comm").Trim() == "postcopy-fault")
            {
                return TimeSpan.FromMicroseconds(long.Parse(File.ReadAllText($"{task}/schedstat").Split(' ')[0], CultureInfo.InvariantCulture) / 1000.0);
            }
        }

        throw new InvalidOperationException("There is no fault thread.");
    }
}
