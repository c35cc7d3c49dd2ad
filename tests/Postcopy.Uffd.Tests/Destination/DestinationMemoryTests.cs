using Postcopy.Uffd.Interop;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Destination;

/// <summary>What a destination changes about guest memory while pages are missing, and gives back at the end.</summary>
public sealed class DestinationMemoryTests
{
    private const int Limit = 60_000;

    [Fact(Timeout = Limit)]
    public async Task LockedMemoryIsUnlockedWhilePagesAreMissingAndLockedAgain() => await Task.Run(() =>
    {
        using DestinationBench bench = new(pages: 8, listen: false);
        Assert.Equal(0, Libc.mlock(bench.Mapping.Address, bench.Mapping.Length));
        Start(bench);
        Assert.False(Flags(bench).IsLocked);

        // Locked it would have been backed at once, and never been missing (hazard H21).
        FaultingThread reader = bench.Read(3);
        Assert.Equal(3 * 4096, bench.Requester.Take().Offset);
        Complete(bench);
        Assert.Equal(DestinationBench.FirstByte(3), (byte)reader.Result);
        Assert.True(Flags(bench).IsLocked);
    });

    [Theory(Timeout = Limit)]
    [InlineData(true)]
    [InlineData(false)]
    public async Task MemoryIsLockedAtTheEndWhenTheHostWantsIt(bool wanted) => await Task.Run(() =>
    {
        using DestinationBench bench = new(pages: 8, options: new PostcopyOptions { LockWhenComplete = wanted });
        Complete(bench);
        Assert.Equal(wanted, Flags(bench).IsLocked);
    });

    [Fact(Timeout = Limit)]
    public async Task ALockThatIsRefusedIsLoggedAndTheGuestIsCompleteAllTheSame() => await Task.Run(() =>
    {
        Requires.Userfaultfd();
        Requires.Root("Becoming user nobody");
        Assert.Equal("Error RAM block ram could not be locked (errno 12); raise RLIMIT_MEMLOCK, state End", ChildProcess.Run(LockBeyondTheLimit).Trim());
    });

    [Theory(Timeout = Limit)]
    [InlineData(Libc.MADV_HUGEPAGE, false)]
    [InlineData(Libc.MADV_NOHUGEPAGE, true)]
    public async Task HugePagesAreOffWhilePagesAreMissingAndAfterwardsAsTheHostHadThem(int advice, bool refusedBefore) => await Task.Run(() =>
    {
        using DestinationBench bench = new(pages: 8, listen: false);
        Assert.SkipWhen(Libc.madvise(bench.Mapping.Address, bench.Mapping.Length, advice) != 0, "Needs a kernel with CONFIG_TRANSPARENT_HUGEPAGE.");
        Start(bench);
        Assert.True(Flags(bench).RefusesHugePages);
        Complete(bench);
        Assert.Equal(refusedBefore, Flags(bench).RefusesHugePages);
    });

    [Theory(Timeout = Limit)]
    [InlineData(true)]
    [InlineData(false)]
    public async Task MemoryOfTheLibraryIsAnOrdinaryMappingAgainHoweverItEnds(bool completed) => await Task.Run(async () =>
    {
        using GuestMemory memory = GuestMemory.Allocate(new GuestMemoryOptions { Length = 8 * 4096 });
        await using PostcopyDestination destination = new(new PostcopyOptions { Open = Requires.AnyKind });
        RamBlock block = destination.Blocks.Add(new RamBlockSpec { Name = "ram", Memory = memory });
        destination.Advise();
        destination.Listen(new QueueRequester());
        string during = Flags(memory.Range).Flags;
        _ = destination.Placer.PlaceZero(block, 0, block.UsedLength);
        if (completed)
        {
            _ = await destination.CompleteAsync().WaitAsync(Deadline.Default);
        }

        await destination.CloseAsync(MissingPagePolicy.Fail);
        string after = Flags(memory.Range).Flags;

        // proc_pid_smaps(5): um registered, dc not forked, dd not dumped.
        Assert.All([" um", " dc", " dd"], flag => Assert.Contains(flag, during, StringComparison.Ordinal));
        Assert.All([" um", " dc", " dd"], flag => Assert.DoesNotContain(flag, after, StringComparison.Ordinal));
        Assert.Equal(PostcopyState.End, destination.State);
    });

    [Fact(Timeout = Limit)]
    public async Task MemoryThatTheHostDisposedBeforeTheCloseIsLeftAlone() => await Task.Run(async () =>
    {
        PostcopyDestination destination = new(new PostcopyOptions { Open = Requires.AnyKind, LockWhenComplete = true });
        using (GuestMemory memory = GuestMemory.Allocate(new GuestMemoryOptions { Length = 8 * 4096 }))
        {
            RamBlock block = destination.Blocks.Add(new RamBlockSpec { Name = "ram", Memory = memory });
            destination.Advise();
            destination.Listen(new QueueRequester());
            _ = destination.Placer.PlaceZero(block, 0, block.UsedLength);
        }

        await destination.CloseAsync(MissingPagePolicy.Fail);
        Assert.Equal(PostcopyState.End, destination.State);
    });

    [Fact(Timeout = Limit)]
    public async Task WhatWasReadOrWrittenBeforeIsMissingAllTheSame() => await Task.Run(() =>
    {
        using DestinationBench bench = new(pages: 8, listen: false);

        // Read: the zero page is mapped. Written: a page of its own.
        Assert.Equal(0, FaultingThread.ReadByte(bench.Mapping.Page(2)));
        _ = Libc.memset(bench.Mapping.Page(3), 7, 4096);
        Start(bench);
        FaultingThread read = bench.Read(2);
        FaultingThread written = bench.Read(3);
        Assert.Equal([2 * 4096L, 3 * 4096L], ((long[])[bench.Requester.Take().Offset, bench.Requester.Take().Offset]).Order());
        Complete(bench);
        Assert.Equal(DestinationBench.FirstByte(2), (byte)read.Result);
        Assert.Equal(DestinationBench.FirstByte(3), (byte)written.Result);
    });

    [Fact(Timeout = Limit)]
    public async Task APageThatIsOnlyInThePageCacheIsAskedForAndNotMapped() => await Task.Run(() =>
    {
        Requires.Userfaultfd(UffdFeatures.MinorShmem);
        using DestinationBench bench = new(pages: 8, shared: true);
        using RawMapping alias = bench.Mapping.Alias();

        // Half of the content is there: the fault is a minor one, and mapping the page would show that half (hazard H46).
        _ = Libc.memset(alias.Page(3), 0x11, 2048);
        FaultingThread reader = bench.Run(() => FaultingThread.ReadByte(bench.Mapping.Page(3) + 4095));
        Assert.Equal(3 * 4096, bench.Requester.Take().Offset);
        Assert.False(reader.Wait(TimeSpan.FromMilliseconds(50)));
        _ = Libc.memset(alias.Page(3), 0x22, 4096);
        Assert.Equal(PlaceOutcome.Placed, bench.Destination.Placer.PlacePageCache(bench.Block, 3 * 4096, 4096).Outcome);
        Assert.Equal(0x22, reader.Result);
    });

    private static void LockBeyondTheLimit(ChildScenario child)
    {
        TestLibc.Limit(Libc.RLIMIT_MEMLOCK, 4096);
        TestLibc.BecomeNobody();
        ListLogger log = new();
        DestinationBench bench = new(pages: 8, options: new PostcopyOptions { LockWhenComplete = true, LoggerFactory = log });
        Complete(bench);
        child.Say($"{log.Lines.Single(l => l.Contains("could not be locked", StringComparison.Ordinal))}, state {bench.Destination.State}");
    }

    private static void Start(DestinationBench bench)
    {
        bench.Destination.Advise();
        bench.Destination.Listen(bench.Requester);
        bench.Destination.Run();
    }

    private static void Complete(DestinationBench bench)
    {
        bench.PlaceAll();
        _ = bench.Destination.CompleteAsync().WaitAsync(Deadline.Default).GetAwaiter().GetResult();
    }

    private static ProcessMaps.Mapping Flags(DestinationBench bench) => Flags(bench.Mapping.Range);

    private static ProcessMaps.Mapping Flags(AddressRange range) => ProcessMaps.Overlapping(range, withFlags: true)[0];
}
