using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;
using Postcopy.Uffd;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Breaking.Tests;

/// <summary>Everybody at one page, again and again; and signals without end at whoever faults.</summary>
public sealed class StormTests(ITestOutputHelper output)
{
    private const int Limit = 600_000;
    private const int Storming = 64;
    private const int SignalsPerSecond = 10_000;

    /// <summary>POSTCOPY_STORMS=2000 for the full run.</summary>
    [Fact(Timeout = Limit)]
    public async Task SixtyFourThreadsStormOnePageAndItIsAskedForOnceEachTime() => await Task.Run(() =>
    {
        Requires.Userfaultfd();
        int rounds = Full.Count("POSTCOPY_STORMS", 60);
        using ChildProcess child = ChildProcess.Start(Storm, Receiver.Budget + TimeSpan.FromSeconds(rounds / 4), $"{rounds}");
        output.WriteLine(child.ReadLine());
        child.WaitForSuccess();
    });

    /// <summary>POSTCOPY_SIGNAL_SECONDS=30 for the full run.</summary>
    [Theory(Timeout = Limit)]
    [InlineData(false)]
    [InlineData(true)]
    public async Task TenThousandSignalsASecondDisturbNoFault(bool inKernel) => await Task.Run(() =>
    {
        if (inKernel)
        {
            Requires.KernelFaults();
        }

        Requires.Userfaultfd();
        int seconds = Full.Count("POSTCOPY_SIGNAL_SECONDS", 2);
        using ChildProcess child = ChildProcess.Start(FaultUnderSignals, Receiver.Budget + TimeSpan.FromSeconds(4 * seconds), $"{seconds}", $"{inKernel}");
        string line = child.ReadLine();
        output.WriteLine(line);
        child.WaitForSuccess();
        Assert.True(long.Parse(line.Split(' ')[0], CultureInfo.InvariantCulture) >= SignalsPerSecond, line);
    });

    private static void Storm(ChildScenario child)
    {
        int rounds = int.Parse(child.Arguments[0], CultureInfo.InvariantCulture);
        ServedMemory served = new(pages: 1);
        using Barrier barrier = new(Storming + 1);
        int wrong = 0;
        Thread[] threads = [.. Enumerable.Range(0, Storming).Select(i => new Thread(() =>
        {
            byte[] found = new byte[TestPages.Bytes];
            byte[] expected = new byte[TestPages.Bytes];
            for (int round = 0; round < rounds; round++)
            {
                barrier.SignalAndWait();
                served.Block.Read(0, found);
                served.FillExpected(0, expected);
                _ = expected.AsSpan().SequenceEqual(found) ? 0 : Interlocked.Increment(ref wrong);
                barrier.SignalAndWait();
            }
        }, 256 << 10) { IsBackground = true, Name = $"storm {i}" })];
        Array.ForEach(threads, t => t.Start());
        long start = Stopwatch.GetTimestamp();
        for (int round = 0; round < rounds; round++)
        {
            // Page 0 of the content has no zeros in any generation.
            served.Generation = round;
            served.Block.Discard(new PageRange(0, TestPages.Bytes));
            Step($"round {round} does not begin");
            Step($"round {round} hangs: {served.Destination.Faults}");
        }

        FaultStatistics faults = served.Destination.Faults;
        Array.ForEach(threads, t => t.Join());
        served.Dispose();
        if (wrong != 0 || faults.Requests != rounds || faults.StuckFaults != 0)
        {
            throw new InvalidDataException($"{wrong} wrong reads, {rounds} rounds, {faults}");
        }

        child.Say($"{rounds} storms in {Stopwatch.GetElapsedTime(start).TotalSeconds:0.0} s; {faults}");

        void Step(string trouble)
        {
            if (!barrier.SignalAndWait(Receiver.Budget))
            {
                throw new TimeoutException(trouble);
            }
        }
    }

    private static void FaultUnderSignals(ChildScenario child)
    {
        const int threads = 8;
        TimeSpan time = TimeSpan.FromSeconds(int.Parse(child.Arguments[0], CultureInfo.InvariantCulture));
        bool inKernel = bool.Parse(child.Arguments[1]);
        string memory = Path.GetTempFileName();
        const int pages = 256;
        using ServedMemory served = new(pages, TimeSpan.FromMilliseconds(1));
        WriteImage(memory, pages);
        using SafeFileHandle image = File.OpenHandle(memory, FileMode.Open, FileAccess.Read, FileShare.ReadWrite, FileOptions.DeleteOnClose);
        bool stop = false;
        int[] ids = new int[threads];
        long faulted = 0;
        int wrong = 0;
        Thread[] faulting = [.. Enumerable.Range(0, threads).Select(i => new Thread(() =>
        {
            Volatile.Write(ref ids[i], (int)HostThread.CurrentId);
            byte[] found = new byte[TestPages.Bytes];
            byte[] expected = new byte[TestPages.Bytes];
            for (int n = 0; !Volatile.Read(ref stop); n++)
            {
                // Pages of one's own: discarded when read, so that every touch is a fault.
                int page = (n % (pages / threads) * threads) + i;
                if (inKernel)
                {
                    // read(2) into the missing page: the fault is the kernel's, and signals stay pending.
                    _ = RandomAccessInto(image, served.Address + (nuint)(page * TestPages.Bytes), page);
                }

                served.Block.Read(page * (long)TestPages.Bytes, found);
                served.FillExpected(page, expected);
                _ = expected.AsSpan().SequenceEqual(found) ? 0 : Interlocked.Increment(ref wrong);
                served.Block.Discard(new PageRange(page * (long)TestPages.Bytes, TestPages.Bytes));
                _ = Interlocked.Increment(ref faulted);
            }
        }) { IsBackground = true })];
        Array.ForEach(faulting, t => t.Start());
        using PosixSignalRegistration handled = PosixSignalRegistration.Create(PosixSignal.SIGWINCH, c => c.Cancel = true);
        long sent = 0;
        long start = Stopwatch.GetTimestamp();
        while (Stopwatch.GetElapsedTime(start) < time)
        {
            for (; sent < Stopwatch.GetElapsedTime(start).TotalSeconds * SignalsPerSecond * 1.2; sent++)
            {
                _ = TestLibc.SignalThread(Volatile.Read(ref ids[sent % threads]), TestLibc.SIGWINCH);
            }

            Thread.Sleep(0);
        }

        TimeSpan took = Stopwatch.GetElapsedTime(start);
        Volatile.Write(ref stop, true);
        foreach (Thread thread in faulting)
        {
            if (!thread.Join(Receiver.Budget))
            {
                throw new TimeoutException($"A thread hangs after {sent} signals: {served.Destination.Faults}");
            }
        }

        FaultStatistics faults = served.Destination.Faults;

        // A repeated message that is read just before its page comes can be looked at after the page was thrown away again: a request too many,
        // which nobody waits for. One a signal it must not be.
        if (wrong != 0 || faulted < threads || faults.Requests > faulted + (faulted / 20) || faults.StuckFaults > 0)
        {
            throw new InvalidDataException($"{wrong} wrong reads of {faulted}, {sent} signals, {faults}");
        }

        child.Say(string.Create(CultureInfo.InvariantCulture, $"{sent / took.TotalSeconds:0} signals a second, {faulted} faults in {took.TotalSeconds:0.0} s; {faults}"));
    }

    private static void WriteImage(string path, int pages)
    {
        using FileStream file = File.Create(path);
        byte[] content = new byte[TestPages.Bytes];
        for (int page = 0; page < pages; page++)
        {
            TestPages.Fill("generation 0", page * (long)TestPages.Bytes, content);
            file.Write(content);
        }
    }

    private static unsafe nint RandomAccessInto(SafeFileHandle file, nuint address, int page) =>
        TestLibc.pread(file, (void*)address, TestPages.Bytes, page * (nint)TestPages.Bytes);
}
