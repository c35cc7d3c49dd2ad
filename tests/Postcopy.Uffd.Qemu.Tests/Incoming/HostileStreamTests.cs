using System.Buffers.Binary;
using System.Collections.Concurrent;
using System.Diagnostics;
using System.Globalization;
using Microsoft.Win32.SafeHandles;
using Postcopy.Uffd.Qemu.Tests.Live;

namespace Postcopy.Uffd.Qemu.Tests.Incoming;

/// <summary>Mutated captures through the whole destination, with real userfaults. Not beside the live tests: what it measures is the process.</summary>
[Collection("live")]
public sealed class HostileStreamTests : IDisposable
{
    private const int MaxPackage = 1 << 20;
    private const long MaxRam = 4 << 20;

    // Beside the package: names, blocks, exceptions.
    private const long Overhead = 256 << 10;
    private const int Workers = 4;
    private const int PageMapEntry = sizeof(ulong);
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(60);

    // Pages that are missing after the end of a stream are waited for this long.
    private static readonly TimeSpan s_stall = TimeSpan.FromMilliseconds(5);
    private readonly SafeFileHandle _pageMap = File.OpenHandle("/proc/self/pagemap");

    public void Dispose() => _pageMap.Dispose();

    /// <summary>5 000; POSTCOPY_TESTS=full for 200 000, or POSTCOPY_MUTATIONS for another number.</summary>
    [Theory(Timeout = 3_600_000)]
    [InlineData(false)]
    [InlineData(true)]
    public async Task EveryMutationEndsInOneExceptionOrWhole(bool preempt)
    {
        bool full = Environment.GetEnvironmentVariable("POSTCOPY_TESTS") == "full";
        int count = int.Parse(Environment.GetEnvironmentVariable("POSTCOPY_MUTATIONS") ?? (full ? "200000" : preempt ? "1500" : "3500"), CultureInfo.InvariantCulture);
        List<Capture> captures = await CapturesAsync(preempt);
        foreach (Capture capture in captures)
        {
            Assert.Equal("complete", await new Run(_pageMap).WholeAsync(capture));
        }

        ConcurrentDictionary<string, int> ends = [];
        int next = -1;
        long allocated = GC.GetTotalAllocatedBytes();
        TimeSpan cpu = Environment.CpuUsage.TotalTime;
        long started = Stopwatch.GetTimestamp();
        await Task.WhenAll(Enumerable.Range(0, Workers).Select(_ => Task.Run(async () =>
        {
            Run run = new(_pageMap);
            for (int i = Interlocked.Increment(ref next); i < count; i = Interlocked.Increment(ref next))
            {
                string end = await run.MutatedAsync(captures[i % captures.Count], i);
                _ = ends.AddOrUpdate(end, 1, (_, n) => n + 1);
            }
        })));
        TimeSpan took = Stopwatch.GetElapsedTime(started);
        TestContext.Current.TestOutputHelper?.WriteLine(
            $"{count} mutations of {string.Join(", ", captures.Select(c => c.Name))}: {took.TotalSeconds:0.0} s, {took.TotalMilliseconds / count:0.000} ms and {(Environment.CpuUsage.TotalTime - cpu).TotalMilliseconds / count:0.000} ms of processor time each, " +
            $"{(GC.GetTotalAllocatedBytes() - allocated) / count} bytes allocated; {string.Join(", ", ends.Select(e => $"{e.Key}: {e.Value}"))}");
        Assert.Equal(["complete", "cut", "incomplete", "malformed"], ends.Keys.Order());
        Assert.InRange((GC.GetTotalAllocatedBytes() - allocated) / count, 0, MaxPackage);
    }

    private static async Task<List<Capture>> CapturesAsync(bool preempt)
    {
        List<Capture> captures = preempt ? [] : [await Capture.OfOursAsync(precopy: true, checksums: false), await Capture.OfOursAsync(precopy: false, checksums: true)];
        if (QemuProcess.IsInstalled)
        {
            captures.Add(await Capture.OfQemuAsync(newest: false, preempt));
        }

        if (NewestQemu.IsThere)
        {
            captures.Add(await Capture.OfQemuAsync(newest: true, preempt));
        }

        Assert.SkipWhen(captures.Count == 0, "there is no QEMU to capture: apt-get install qemu-system-x86, or run eng/get-qemu as root");
        return captures;
    }

    /// <summary>One migration after the other; the buffers are used again.</summary>
    private sealed class Run(SafeFileHandle pageMap)
    {
        private readonly Mutator _main = new();
        private readonly Mutator _urgent = new();

        internal Task<string> WholeAsync(Capture capture)
        {
            _main.Load(capture.Main);
            _urgent.Load(capture.Urgent ?? []);
            return ReceiveAsync(capture, -1, TimeSpan.FromSeconds(10));
        }

        /// <summary>By its number alone, so that one can be looked at.</summary>
        internal Task<string> MutatedAsync(Capture capture, int number)
        {
            Random random = new(20261123 + number);
            _main.Load(capture.Main);
            _urgent.Load(capture.Urgent ?? []);
            (capture.Urgent is null || random.Next(4) == 0 ? _main : _urgent).Mutate(random);
            return ReceiveAsync(capture, number, s_stall);
        }

        private async Task<string> ReceiveAsync(Capture capture, int number, TimeSpan stall)
        {
            using ManualResetEventSlim running = new();
            using Replay main = new(_main.Bytes);
            using Replay urgent = new(_urgent.Bytes, running);
            PostcopyDestination destination = new();
            QemuIncoming incoming = new(destination, new QemuIncomingOptions
            {
                StallTimeout = stall,
                OnRunning = running.Set,
                Stream = new QemuStreamOptions
                {
                    ReceiveBufferSize = QemuStreamOptions.MinReceiveBufferSize,
                    Limits = new ProtocolLimits { MaxTotalRam = MaxRam, MaxBlockLength = MaxRam, MaxPackageLength = MaxPackage, MaxBlocks = 16, MaxBlockPageSize = 4096 },
                },
            });
            Queue<Replay> connections = new(capture.Urgent is null ? [main] : [main, urgent]);
            string end;
            try
            {
                Task<CompletionReport> receiving = incoming.RunAsync(async token =>
                {
                    if (connections.TryDequeue(out Replay? next))
                    {
                        return MigrationChannel.FromStream(next);
                    }

                    // Turned away as a stranger, or read to its end: nobody else comes.
                    await main.Closed.Task.WaitAsync(token);
                    throw new EndOfStreamException("no other connection");
                });
                _ = await receiving.WaitAsync(s_patience, TestContext.Current.CancellationToken);
                end = "complete";
                Assert.Equal(0, destination.Blocks.MissingBytes);
            }
            catch (TimeoutException)
            {
                Assert.Fail($"mutation {number} of {capture.Name} hangs in phase {incoming.Statistics.Phase}, state {destination.State}");
                throw new UnreachableException();
            }
            catch (QemuIncomingException e)
            {
                MigrationStreamException? malformed = e.StreamError;
                Assert.True(malformed is null || (malformed.StreamOffset >= 0 && malformed.StreamOffset <= Math.Max(_main.Bytes.Length, _urgent.Bytes.Length)));
                Assert.Equal(destination.State is not PostcopyState.Running, e.SourceMayResume || destination.State is PostcopyState.Listen);
                end = malformed is not null ? "malformed" : e.InnerException is MigrationConnectionException ? "cut" : "incomplete";
            }

            await incoming.DisposeAsync();
            AssertReceivedIsPlaced(destination, incoming.Statistics, number, capture);
            await destination.CloseAsync(MissingPagePolicy.Poison);
            foreach (RamBlock block in destination.Blocks.Blocks)
            {
                block.Memory?.Dispose();
            }

            destination.Blocks.Dispose();
            Assert.True(main.MostAllocated < MaxPackage + Overhead, $"mutation {number} of {capture.Name} allocated {main.MostAllocated} bytes");
            Assert.True(urgent.MostAllocated < Overhead, $"mutation {number} of {capture.Name} allocated {urgent.MostAllocated} bytes on the urgent channel");
            return end;
        }

        /// <summary>Each received page is in the page tables; zeros of the precopy passes need not be.</summary>
        private void AssertReceivedIsPlaced(PostcopyDestination destination, QemuIncomingStatistics wire, int number, Capture capture)
        {
            long received = 0;
            long absent = 0;
            foreach (RamBlock block in destination.Blocks.Blocks)
            {
                Assert.InRange(block.UsedLength, 4096, MaxRam);
                byte[] entries = new byte[block.PageCount * PageMapEntry];
                Assert.Equal(entries.Length, RandomAccess.Read(pageMap, entries, (long)(block.HostAddress / 4096) * PageMapEntry));
                for (int page = 0; page < block.PageCount; page++)
                {
                    if (block.Received.Test(page))
                    {
                        // Bit 63 (proc_pid_pagemap(5)): present.
                        received++;
                        absent += (BinaryPrimitives.ReadUInt64LittleEndian(entries.AsSpan(page * PageMapEntry)) >> 63) == 0 ? 1 : 0;
                    }
                }
            }

            Assert.True(received <= wire.Pages + wire.ZeroPages, $"mutation {number} of {capture.Name}: {received} pages received, {wire}");
            Assert.True(absent <= Math.Min(wire.PrecopyPages, wire.ZeroPages), $"mutation {number} of {capture.Name}: {absent} received pages are not there, {wire}");
        }
    }
}
