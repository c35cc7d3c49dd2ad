namespace Postcopy.Uffd.Qemu.Tests.Source;

public sealed class QemuSourceTests
{
    private static readonly TimeSpan s_limit = TimeSpan.FromSeconds(20);

    private static SeededMemory Memory() => new(
        7, new SourceRamBlock("pc.ram", 300 * 4096), new SourceRamBlock("mem0", 3 << 21, 1 << 21), new SourceRamBlock("/rom@etc/x", 4096));

    private static Task Thread(Action run) => Task.Factory.StartNew(run, TaskCreationOptions.LongRunning).WaitAsync(s_limit);

    [Fact]
    public async Task EverythingArrivesByPostcopy()
    {
        SeededMemory memory = Memory();
        TestDestination destination = new();
        await using QemuSource source = new(memory, new QemuSourceOptions { MachineType = "test" });
        (MigrationChannel near, MigrationChannel far) = Streams.ChannelPair();
        Task<QemuSourceState> run = source.RunAsync(near, null, TestContext.Current.CancellationToken);
        using (far)
        {
            await Thread(() => destination.RunMain(far));
            Assert.Equal(QemuSourceState.Completed, await run.WaitAsync(s_limit, TestContext.Current.CancellationToken));
        }

        destination.Verify(memory);
        Assert.Equal(
            ["Configuration", "OpenReturnPath", "Ping 1", "PostcopyAdvise", "BlockList", "Ping 2", "Package", "Ping 4", "EndOfStream"], destination.Order);
        Assert.Equal(300 + (3 * 512) + 1, destination.PostcopyPages);
        QemuSourceStatistics statistics = source.Statistics;
        Assert.Equal(destination.PostcopyPages, statistics.Pages + statistics.ZeroPages);
        Assert.Equal((300 / 4) + (3 * 512 / 4) + 1, statistics.ZeroPages);
        Assert.Equal(0, statistics.RemainingBytes);
        Assert.Null(source.Error);
    }

    [Fact]
    public async Task PrecopyGoesFirstAndOnlyTheRestIsDiscarded()
    {
        SeededMemory memory = new(3, new SourceRamBlock("a", 100 * 4096), new SourceRamBlock("b", 50 * 4096));
        TestDestination destination = new();
        await using QemuSource source = new(memory, new QemuSourceOptions { PrecopyPasses = 1, PrecopyLimit = 120 * 4096 });
        (MigrationChannel near, MigrationChannel far) = Streams.ChannelPair();
        using (far)
        {
            Task<QemuSourceState> run = source.RunAsync(near, null, TestContext.Current.CancellationToken);
            await Thread(() => destination.RunMain(far));
            Assert.Equal(QemuSourceState.Completed, await run.WaitAsync(s_limit, TestContext.Current.CancellationToken));
        }

        destination.Verify(memory);
        Assert.Equal(30, destination.PostcopyPages);
        Assert.Equal(120, source.Statistics.PrecopyPages);
    }

    [Fact]
    public async Task ScatteredDirtyPagesAreDiscardedTwelvePerCommand()
    {
        SeededMemory memory = new(3, new SourceRamBlock("a", 64 * 4096));
        await using QemuSource source = new(memory, new QemuSourceOptions { PrecopyPasses = 1, PrecopyLimit = 64 * 4096, BackgroundBandwidth = 1_000_000 });
        (MigrationChannel near, MigrationChannel far) = Streams.ChannelPair();
        using (far)
        {
            Task<QemuSourceState> run = source.RunAsync(near, null, TestContext.Current.CancellationToken);
            using QemuStreamReader reader = new(far, new MigrationStreamState(), Streams.Options);
            reader.ReadTo(StreamRecordKind.Page);
            for (int page = 0; page < 40; page += 2)
            {
                source.MarkDirty("a", page * 4096, 1);
            }

            source.BackgroundBandwidth = 0;
            List<DiscardRange> ranges = [];
            List<int> counts = [];
            StreamRecordKind kind = StreamRecordKind.Page;
            for (; kind != StreamRecordKind.Package; kind = reader.ReadNext())
            {
                if (kind == StreamRecordKind.Discard)
                {
                    ranges.AddRange(reader.Discards);
                    counts.Add(reader.Discards.Length);
                }
            }

            Assert.All(ranges, range => Assert.True(range.Start % 8192 == 0 && range.Length == 4096));
            Assert.All(counts.SkipLast(1), count => Assert.Equal(12, count));
            Assert.InRange(counts[^1], 1, 12);
            await source.DisposeAsync();
            Assert.Equal(QemuSourceState.Cancelled, await run.WaitAsync(s_limit, TestContext.Current.CancellationToken));
        }
    }

    [Fact]
    public async Task RequestsComeFirstAndTheStreamGoesOnFromThere()
    {
        const int Pages = 2000;
        SeededMemory memory = new(5, new SourceRamBlock("a", Pages * 4096));
        await using QemuSource source = new(memory, new QemuSourceOptions { BackgroundBandwidth = 4096 * 100 });
        (MigrationChannel near, MigrationChannel far) = Streams.ChannelPair();
        using (far)
        {
            Task<QemuSourceState> run = source.RunAsync(near, null, TestContext.Current.CancellationToken);
            using QemuStreamReader reader = new(far, new MigrationStreamState(), Streams.Options);
            using ReturnPathWriter writer = new(far);
            reader.ReadTo(StreamRecordKind.Package);
            Assert.Equal(ReturnPathOutcome.Sent, writer.TryRequestPages(reader.State.Blocks[0], 1500 * 4096, 2 * 4096));
            int before = 0;
            while (Next(reader) != 1500)
            {
                before++;
            }

            Assert.InRange(before, 0, 200);
            Assert.Equal(1501, Next(reader));
            Assert.Equal(1502, Next(reader));
            source.BackgroundBandwidth = 0;
            int seen = before + 3;
            for (StreamRecordKind kind = reader.ReadNext(); kind != StreamRecordKind.EndOfStream; kind = reader.ReadNext())
            {
                seen += kind is StreamRecordKind.Page or StreamRecordKind.ZeroPage ? 1 : 0;
            }

            Assert.Equal(Pages, seen);
            writer.Shut(0);
            Assert.Equal(QemuSourceState.Completed, await run.WaitAsync(s_limit, TestContext.Current.CancellationToken));
            Assert.Equal(2, source.Statistics.UrgentPages);
            Assert.Equal(1, source.Statistics.Requests);
        }

        static long Next(QemuStreamReader reader)
        {
            while (reader.ReadNext() is not (StreamRecordKind.Page or StreamRecordKind.ZeroPage))
            {
            }

            return reader.PageOffset / 4096;
        }
    }

    [Theory]
    [InlineData(QemuPreemptMode.AtStart)]
    [InlineData(QemuPreemptMode.AtSwitch)]
    public async Task RequestedPagesTravelOnTheUrgentChannel(QemuPreemptMode preempt)
    {
        SeededMemory memory = Memory();
        TestDestination destination = new();
        await using QemuSource source = new(memory, new QemuSourceOptions { Preempt = preempt, BackgroundBandwidth = 1_000_000 });
        (MigrationChannel near, MigrationChannel far) = Streams.ChannelPair();
        (MigrationChannel urgentNear, MigrationChannel urgentFar) = Streams.ChannelPair();
        using (far)
        using (urgentFar)
        {
            Task<QemuSourceState> run = source.RunAsync(near, () => urgentNear, TestContext.Current.CancellationToken);
            Task urgent = Thread(() => destination.RunUrgent(urgentFar));
            Task main = Thread(() => destination.RunMain(far));
            Assert.True(destination.Running.Wait(s_limit, TestContext.Current.CancellationToken));
            IReadOnlyList<StreamRamBlock> blocks = destination.State.Blocks;
            Assert.Equal(ReturnPathOutcome.Sent, destination.Writer!.TryRequestPages(blocks[1], 2 << 21, 1 << 21));
            Assert.Equal(ReturnPathOutcome.Sent, destination.Writer!.TryRequestPages(blocks[0], 299 * 4096, 4096));
            Assert.True(SpinWait.SpinUntil(() => destination.UrgentPages >= 513, s_limit), $"{destination.UrgentPages} urgent pages");
            source.BackgroundBandwidth = 0;
            await main;
            Assert.Equal(QemuSourceState.Completed, await run.WaitAsync(s_limit, TestContext.Current.CancellationToken));
            await urgent;
        }

        destination.Verify(memory);
        Assert.Equal(513, source.Statistics.UrgentPages);
        Assert.Equal(2, source.Statistics.Requests);
    }

    [Theory]
    [InlineData(QemuPreemptMode.None)]
    [InlineData(QemuPreemptMode.AtStart)]
    [InlineData(QemuPreemptMode.AtSwitch)]
    public async Task TwoBrokenConnectionsLoseAndRepeatNothing(QemuPreemptMode preempt)
    {
        SeededMemory memory = Memory();
        TestDestination destination = new() { BreakAfter = 150 };
        // Slow enough that the source has not sent its EOF when the break comes: that could not be resumed (qemu-wire.md 0.10).
        await using QemuSource source = new(memory, new QemuSourceOptions { Preempt = preempt, BackgroundBandwidth = 8_000_000 });
        List<Task> urgentReaders = [];
        QemuSourceState state = QemuSourceState.PostcopyPaused;
        for (int connection = 0; connection < 3; connection++)
        {
            Assert.Equal(QemuSourceState.PostcopyPaused, state);
            (MigrationChannel near, MigrationChannel far) = Streams.ChannelPair();
            source.BackgroundBandwidth = connection < 2 ? 8_000_000 : 0;
            using (far)
            {
                Func<MigrationChannel>? openUrgent = preempt == QemuPreemptMode.None ? null : () =>
                {
                    (MigrationChannel urgentNear, MigrationChannel urgentFar) = Streams.ChannelPair();
                    urgentReaders.Add(Thread(() =>
                    {
                        using (urgentFar)
                        {
                            destination.RunUrgent(urgentFar);
                        }
                    }));
                    return urgentNear;
                };
                Task<QemuSourceState> run = connection == 0
                    ? source.RunAsync(near, openUrgent, TestContext.Current.CancellationToken)
                    : source.ResumeAsync(near, openUrgent, TestContext.Current.CancellationToken);
                await Thread(() => destination.RunMain(far));
                state = await run.WaitAsync(s_limit, TestContext.Current.CancellationToken);
                destination.BreakAfter = connection == 0 ? 900 : int.MaxValue;
            }
        }

        await Task.WhenAll(urgentReaders);
        Assert.Equal(QemuSourceState.Completed, state);
        Assert.Equal(2, destination.Order.Count(o => o == "Resume"));
        destination.Verify(memory);
    }

    [Fact]
    public async Task PackageCarriesTheDevicesAndThePointOfNoReturn()
    {
        byte[] devices = new WireBytes().U8(4).U32(5).Name("dev").U32(0).U32(1).Raw(1, 2, 3).Footer(5).ToArray();
        SeededMemory memory = new(1, new SourceRamBlock("a", 8 * 4096));
        TestDestination destination = new();
        await using QemuSource source = new(
            memory, new QemuSourceOptions { DeviceSections = devices, UsePointOfNoReturn = true, SendSwitchoverStart = true, Uuid = Guid.Empty });
        (MigrationChannel near, MigrationChannel far) = Streams.ChannelPair();
        using (far)
        {
            Task<QemuSourceState> run = source.RunAsync(near, null, TestContext.Current.CancellationToken);
            await Thread(() => destination.RunMain(far));
            Assert.Equal(QemuSourceState.Completed, await run.WaitAsync(s_limit, TestContext.Current.CancellationToken));
        }

        Assert.Equal([3u, 0x42u], destination.Package!.Pings);
        DeviceSection section = Assert.Single(destination.Package.Split());
        Assert.Equal([1, 2, 3], section.Body.ToArray());
        Assert.Equal(Guid.Empty, destination.State.Uuid);
    }

    [Fact]
    public async Task BreakBeforeThePointOfNoReturnFailsAndTheGuestStaysHere()
    {
        SeededMemory memory = Memory();
        TestDestination destination = new() { AnswerPings = false, BreakAfter = 20 };
        await using QemuSource source = new(memory, new QemuSourceOptions { UsePointOfNoReturn = true });
        (MigrationChannel near, MigrationChannel far) = Streams.ChannelPair();
        using (far)
        {
            Task<QemuSourceState> run = source.RunAsync(near, null, TestContext.Current.CancellationToken);
            await Thread(() => destination.RunMain(far));
            Assert.Equal(QemuSourceState.Failed, await run.WaitAsync(s_limit, TestContext.Current.CancellationToken));
            Assert.IsType<MigrationConnectionException>(source.Error);
        }
    }

    [Fact]
    public async Task ErrorShutFailsTheSource()
    {
        SeededMemory memory = Memory();
        TestDestination destination = new() { ShutStatus = 1 };
        await using QemuSource source = new(memory);
        (MigrationChannel near, MigrationChannel far) = Streams.ChannelPair();
        using (far)
        {
            Task<QemuSourceState> run = source.RunAsync(near, null, TestContext.Current.CancellationToken);
            await Thread(() => destination.RunMain(far));
            Assert.Equal(QemuSourceState.Failed, await run.WaitAsync(s_limit, TestContext.Current.CancellationToken));
            Assert.Contains("destination failed", source.Error!.Message, StringComparison.Ordinal);
        }
    }

    [Fact]
    public async Task BadRequestPausesTheSource()
    {
        await using QemuSource source = new(Memory(), new QemuSourceOptions { BackgroundBandwidth = 1_000_000 });
        (MigrationChannel near, MigrationChannel far) = Streams.ChannelPair();
        using (far)
        {
            Task<QemuSourceState> run = source.RunAsync(near, null, TestContext.Current.CancellationToken);
            using QemuStreamReader reader = new(far, new MigrationStreamState(), Streams.Options);
            reader.ReadTo(StreamRecordKind.Package);
            far.Send(new WireBytes().U16(3).U16(8 + 4 + 7).U64(0x800).U32(4096).Name("pc.ram").ToArray());
            Assert.Equal(QemuSourceState.PostcopyPaused, await run.WaitAsync(s_limit, TestContext.Current.CancellationToken));
            Assert.IsType<MigrationStreamException>(source.Error);
        }
    }

    [Fact]
    public async Task CancellationEndsItPromptlyThoughNobodyReads()
    {
        using CancellationTokenSource cancel = new();
        await using QemuSource source = new(new SeededMemory(1, new SourceRamBlock("a", 1 << 28)));
        (MigrationChannel near, MigrationChannel far) = Streams.ChannelPair();
        using (far)
        {
            Task<QemuSourceState> run = source.RunAsync(near, null, cancel.Token);
            Assert.True(SpinWait.SpinUntil(() => source.Statistics.BytesSent > 0, s_limit));
            await cancel.CancelAsync();
            Assert.Equal(QemuSourceState.Cancelled, await run.WaitAsync(s_limit, TestContext.Current.CancellationToken));
        }
    }

    [Fact]
    public async Task BackgroundBandwidthIsKept()
    {
        SeededMemory memory = new(1, new SourceRamBlock("a", 100 * 4096));
        TestDestination destination = new();
        await using QemuSource source = new(memory, new QemuSourceOptions { BackgroundBandwidth = 1_000_000, DetectZeroPages = false });
        (MigrationChannel near, MigrationChannel far) = Streams.ChannelPair();
        long started = TimeProvider.System.GetTimestamp();
        using (far)
        {
            Task<QemuSourceState> run = source.RunAsync(near, null, TestContext.Current.CancellationToken);
            await Thread(() => destination.RunMain(far));
            await run.WaitAsync(s_limit, TestContext.Current.CancellationToken);
        }

        // 100 pages at one megabyte per second are 0.41 s, less one burst.
        Assert.InRange(TimeProvider.System.GetElapsedTime(started).TotalSeconds, 0.35, 10);
        destination.Verify(memory);
    }

    [Fact]
    public void InvalidBlocksAreRefused()
    {
        Assert.Throws<ArgumentException>(() => new QemuSource(new SeededMemory(1)));
        Assert.Throws<ArgumentException>(() => new QemuSource(new SeededMemory(1, new SourceRamBlock("a", 5000))));
        Assert.Throws<ArgumentException>(() => new QemuSource(new SeededMemory(1, new SourceRamBlock("a", 4096, 1 << 21))));
        Assert.Throws<ArgumentException>(() => new QemuSource(new SeededMemory(1, new SourceRamBlock("", 4096))));
        Assert.Throws<ArgumentException>(() => new QemuSource(new SeededMemory(1, new SourceRamBlock("a", 4096), new SourceRamBlock("a", 4096))));
    }
}
