using System.Diagnostics;
using System.Globalization;
using System.Reflection.Emit;
using System.Runtime;
using Microsoft.Extensions.Logging;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Destination;

/// <summary>What a run of <see cref="GcSafetyScenario"/> saw; it crosses a pipe as one line.</summary>
internal sealed record GcSafetyFigures(bool IsServer, long Wrong, long Faults, long StuckFaults, int Collections, long Compiled, long Thrown,
    long Logged, double LongestStall, double LongestBeyondPauses, double LongestPause, double TotalPause)
{
    internal static GcSafetyFigures Parse(string line)
    {
        string[] w = line.Split(' ');
        return new(bool.Parse(w[0]), Long(1), Long(2), Long(3), (int)Long(4), Long(5), Long(6), Long(7), Double(8), Double(9), Double(10), Double(11));
        long Long(int i) => long.Parse(w[i], CultureInfo.InvariantCulture);
        double Double(int i) => double.Parse(w[i], CultureInfo.InvariantCulture);
    }

    internal string ToLine() => string.Create(CultureInfo.InvariantCulture,
        $"{IsServer} {Wrong} {Faults} {StuckFaults} {Collections} {Compiled} {Thrown} {Logged} {LongestStall} {LongestBeyondPauses} {LongestPause} {TotalPause}");

    public override string ToString() => string.Create(CultureInfo.InvariantCulture,
        $"{Faults} faults, {Collections} collections (longest pause {LongestPause:0.0} ms, {TotalPause:0} ms together), {Compiled} methods compiled, {Thrown} exceptions, {Logged} log lines; longest stall {LongestStall:0.0} ms, {LongestBeyondPauses:0.0} ms of it beyond pauses");
}

/// <summary>
/// A child process: vCPU threads in native code touch missing pages, a managed source places them, and every other thread
/// does what stops or stretches a collection.
/// </summary>
internal static class GcSafetyScenario
{
    private const int PagesOfARound = 8192;

    // The time runs from the first touch: with everything else going on, a start can take seconds.
    private static long s_start;
    private static bool s_stop;
    private static long s_wrong;
    private static long s_compiled;
    private static long s_thrown;
    private static long s_logged;
    private static long s_longestStall;
    private static long s_longestBeyond;
    private static long s_longestPause;

    internal static void Run(ChildScenario child)
    {
        TimeSpan time = TimeSpan.FromSeconds(int.Parse(child.Arguments[0], CultureInfo.InvariantCulture));
        CountingLogger log = new();
        Thread[] noise = [Start(Allocate), Start(Allocate), Start(Collect), Start(Compile), Start(Throw), Start(() => Write(log))];
        long faults = 0;
        long stuck = 0;
        for (int round = 0; round == 0 || Stopwatch.GetElapsedTime(s_start) < time; round++)
        {
            (long requests, long stuckHere) = Round(round, time, log);
            faults += requests;
            stuck += stuckHere;
        }

        Volatile.Write(ref s_stop, true);
        foreach (Thread thread in noise)
        {
            if (!thread.Join(20_000))
            {
                throw new TimeoutException("A thread beside the faults hangs.");
            }
        }

        child.Say(new GcSafetyFigures(GCSettings.IsServerGC, s_wrong, faults, stuck, GC.CollectionCount(0), s_compiled, s_thrown, s_logged,
            Milliseconds(s_longestStall), Milliseconds(s_longestBeyond), TimeSpan.FromTicks(s_longestPause).TotalMilliseconds,
            GC.GetTotalPauseDuration().TotalMilliseconds).ToLine());
        TestLibc.exit_now(0);
    }

    /// <summary>One postcopy from the first page to the last, or until time is up.</summary>
    private static (long Requests, long Stuck) Round(int round, TimeSpan time, CountingLogger log)
    {
        GuestMemory memory = GuestMemory.Allocate(new GuestMemoryOptions { Length = PagesOfARound * 4096L });
        PostcopyDestination destination = new(new PostcopyOptions { Open = Requires.AnyKind, Blocktime = new BlocktimeOptions(), LoggerFactory = log });
        RamBlock block = destination.Blocks.Add(new RamBlockSpec { Name = "ram", Memory = memory });
        using PageRequestQueue requests = new();
        destination.Advise();
        destination.Listen(requests);
        destination.Run();
        s_start = round == 0 ? Stopwatch.GetTimestamp() : s_start;
        bool stop = false;
        Thread source = Start(() =>
        {
            nuint page = Pages.Make(0, 4096);
            while (!Volatile.Read(ref stop))
            {
                if (requests.TryTake(TimeSpan.FromMilliseconds(10), out PageRequest request))
                {
                    // An allocation beside each page: the source is part of what the collector stops.
                    byte[] content = Pages.Expected(request.Offset / 4096, 4096);
                    GuestAccess.Write(page, content);
                    _ = destination.Placer.Place(request.Block, request.Offset, page, 4096);
                }
            }

            Pages.Free(page);
        });
        Thread[] vcpus = [.. Enumerable.Range(0, 4).Select(t => Start(() => Vcpu(destination, memory, t, time)))];
        foreach (Thread vcpu in vcpus)
        {
            if (!vcpu.Join(30_000))
            {
                throw new TimeoutException($"A vCPU thread hangs in round {round}: {destination.Blocktime!.Snapshot()}");
            }
        }

        Volatile.Write(ref stop, true);
        source.Join();
        FaultStatistics faults = destination.Faults;
        _ = destination.Placer.PlaceZero(block, 0, block.UsedLength);
        destination.CloseAsync(MissingPagePolicy.Fail).AsTask().Wait(Deadline.Default);
        memory.Dispose();
        return (faults.Requests, faults.StuckFaults);
    }

    /// <summary>Each touch is one native call; the collector's pauses are read before and after it.</summary>
    private static void Vcpu(PostcopyDestination destination, GuestMemory memory, int number, TimeSpan time)
    {
        _ = destination.Blocktime!.AddVcpu(HostThread.CurrentId);
        byte[] one = new byte[1];
        for (int page = number; page < PagesOfARound && Stopwatch.GetElapsedTime(s_start) < time; page += 4)
        {
            TimeSpan pausesBefore = GC.GetTotalPauseDuration();
            long before = Stopwatch.GetTimestamp();
            if (number % 2 == 0)
            {
                memory.Read(page * 4096L, one);
            }
            else
            {
                one[0] = FaultingThread.ReadByte(memory.Address + (nuint)(page * 4096L));
            }

            long stall = Stopwatch.GetTimestamp() - before;
            long pauses = (long)((GC.GetTotalPauseDuration() - pausesBefore).TotalSeconds * Stopwatch.Frequency);
            Raise(ref s_longestStall, stall);
            Raise(ref s_longestBeyond, stall - pauses);
            if (one[0] != DestinationBench.FirstByte(page))
            {
                _ = Interlocked.Increment(ref s_wrong);
            }
        }
    }

    private static void Allocate()
    {
        byte[]?[] kept = new byte[512][];
        for (int i = 0; !Volatile.Read(ref s_stop); i++)
        {
            kept[i % kept.Length] = new byte[(i % 64) switch { 0 => 100_000, 1 => 20_000, _ => 500 }];
            if (i % 1000 == 0)
            {
                Thread.Yield();
            }
        }
    }

    private static void Collect()
    {
        while (!Volatile.Read(ref s_stop))
        {
            GC.Collect(2, GCCollectionMode.Forced, blocking: true, compacting: true);
            Note(GCKind.FullBlocking);
            GC.Collect(0);
            Note(GCKind.Ephemeral);
            GC.Collect(2, GCCollectionMode.Optimized, blocking: false);
            Note(GCKind.Background);
            Thread.Sleep(1);
        }

        static void Note(GCKind kind)
        {
            foreach (TimeSpan pause in GC.GetGCMemoryInfo(kind).PauseDurations)
            {
                Raise(ref s_longestPause, pause.Ticks);
            }
        }
    }

    private static void Compile()
    {
        for (int i = 0; !Volatile.Read(ref s_stop); i++)
        {
            DynamicMethod method = new("M", typeof(int), [typeof(int)]);
            ILGenerator il = method.GetILGenerator();
            il.Emit(OpCodes.Ldarg_0);
            il.Emit(OpCodes.Ldc_I4, i);
            il.Emit(OpCodes.Add);
            il.Emit(OpCodes.Ret);
            if (method.CreateDelegate<Func<int, int>>()(1) != i + 1)
            {
                _ = Interlocked.Increment(ref s_wrong);
            }

            s_compiled++;
        }
    }

    private static void Throw()
    {
        while (!Volatile.Read(ref s_stop))
        {
            try
            {
                Deep(20);
            }
            catch (InvalidOperationException)
            {
                s_thrown++;
            }
        }

        static int Deep(int n) => n == 0 ? throw new InvalidOperationException("meant") : Deep(n - 1) + 1;
    }

    private static void Write(ILogger log)
    {
        while (!Volatile.Read(ref s_stop))
        {
            log.LogInformation("{Faults} exceptions, {Compiled} methods", s_thrown, s_compiled);
            Thread.Sleep(0);
        }
    }

    private static Thread Start(ThreadStart work)
    {
        Thread thread = new(work) { IsBackground = true };
        thread.Start();
        return thread;
    }

    private static void Raise(ref long most, long value)
    {
        long seen = Volatile.Read(ref most);
        while (value > seen)
        {
            long now = Interlocked.CompareExchange(ref most, value, seen);
            if (now == seen)
            {
                return;
            }

            seen = now;
        }
    }

    private static double Milliseconds(long ticks) => ticks * 1000.0 / Stopwatch.Frequency;

    private sealed class CountingLogger : ILoggerFactory, ILogger
    {
        public ILogger CreateLogger(string categoryName) => this;

        public void AddProvider(ILoggerProvider provider)
        {
        }

        public IDisposable? BeginScope<TState>(TState state)
            where TState : notnull => null;

        public bool IsEnabled(LogLevel logLevel) => true;

        public void Log<TState>(LogLevel logLevel, EventId eventId, TState state, Exception? exception, Func<TState, Exception?, string> formatter)
        {
            if (formatter(state, exception).Length > 0)
            {
                _ = Interlocked.Increment(ref s_logged);
            }
        }

        public void Dispose()
        {
        }
    }
}
